//! Mutations of bytes, each the same for the same seed.

/// The largest input that is made.
const LARGEST: usize = 128 * 1024;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        match n {
            0 => 0,
            n => (self.next() % n as u64) as usize,
        }
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// A range of up to `longest` bytes.
    fn range(&mut self, length: usize, longest: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let end = start + self.below((length - start).min(longest) + 1);
        start..end
    }
}

/// What means something to one reader or another.
const WORDS: [&str; 62] = [
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\"",
    "\"\"\"",
    "'",
    "'''",
    "\\",
    "\\u0000",
    "\u{0}",
    ",",
    ":",
    "=",
    "==",
    ".",
    "..",
    "../",
    "/",
    "#",
    "\n",
    "\r\n",
    "\t",
    " ",
    "@",
    "*",
    "**",
    "+",
    "-",
    "->",
    "é",
    "\u{feff}",
    "null",
    "true",
    "false",
    "NaN",
    "Infinity",
    "-1",
    "0",
    "1e999",
    "1e-999",
    "0x7f",
    "_",
    "shape",
    "dtype",
    "F32",
    "BF16",
    "data_offsets",
    "__metadata__",
    "sum(",
    "shift(",
    "return ",
    "repeat l in L {",
    "if true {",
    "include = [\"x\"]",
    "[axes]\n",
    "[[x]]\n",
    "x.y.z = 1\n",
    "[a.b",
    "C",
];

const NUMBERS: [&str; 22] = [
    "0",
    "1",
    "2",
    "-1",
    "3",
    "7",
    "63",
    "64",
    "255",
    "256",
    "4096",
    "4097",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "0.1",
];

const WORD_VALUES: [u64; 14] = [
    0,
    1,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// One of the starts with one to six changes.
pub fn mutated(starts: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut data = starts[dice.below(starts.len())].clone();
    for _ in 0..1 + dice.below(6) {
        change(&mut data, starts, &mut dice);
        data.truncate(LARGEST);
    }
    data
}

fn change(data: &mut Vec<u8>, starts: &[Vec<u8>], dice: &mut Dice) {
    let length = data.len();
    match dice.below(13) {
        0 if length > 0 => data[dice.below(length)] ^= 1 << dice.below(8),
        1 if length > 0 => {
            let at = dice.below(length);
            data[at] = dice.next() as u8;
        }
        2 => {
            let range = dice.range(length, 40);
            data.drain(range);
        }
        3 => {
            let range = dice.range(length, 4000);
            data.drain(range);
        }
        // A part many times: nesting, long lists, long names.
        4 | 5 => {
            let longest = [4, 40, 400][dice.below(3)];
            let range = dice.range(length, longest);
            let times = [2, 3, 20, 200, 3000][dice.below(5)];
            let part = data[range.clone()].to_vec();
            let times = times.min(LARGEST / part.len().max(1));
            data.splice(range, part.repeat(times));
        }
        6 => {
            let word = dice.of(&WORDS).as_bytes().to_vec();
            let at = dice.below(length + 1);
            data.splice(at..at, word);
        }
        7 => {
            let times = [2, 30, 150, 5000][dice.below(4)];
            let words = dice.of(&WORDS).as_bytes().repeat(times);
            let at = dice.below(length + 1);
            data.splice(at..at, words);
        }
        8 => {
            let other = &starts[dice.below(starts.len())];
            let part = other[dice.range(other.len(), 2000)].to_vec();
            let range = dice.range(length, 200);
            data.splice(range, part);
        }
        9 | 10 => {
            // Another number where there is one.
            let digits: Vec<usize> = (0..length).filter(|i| data[*i].is_ascii_digit()).collect();
            if !digits.is_empty() {
                let at = digits[dice.below(digits.len())];
                let mut end = at;
                while data.get(end).is_some_and(u8::is_ascii_digit) {
                    end += 1;
                }
                data.splice(at..end, dice.of(&NUMBERS).bytes());
            }
        }
        11 => {
            let bytes = [1, 2, 4, 8][dice.below(4)];
            if length >= bytes {
                let at = dice.below(length - bytes + 1);
                let value = WORD_VALUES[dice.below(WORD_VALUES.len())].to_le_bytes();
                data[at..at + bytes].copy_from_slice(&value[..bytes]);
            }
        }
        _ => data.truncate(dice.below(length + 1)),
    }
}
