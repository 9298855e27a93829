//! Small valid checkpoints, written by hand so that tests can also write wrong ones.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A safetensors file: any header text, then data.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// Little-endian f32 bytes.
pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Opcodes of a pickle, protocol 2, as `torch.save` chooses them.
#[derive(Clone, Default)]
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn string(self, text: &str) -> Self {
        self.op(b"X")
            .op(&(text.len() as u32).to_le_bytes())
            .op(text.as_bytes())
    }

    pub fn integer(self, value: i64) -> Self {
        match i32::try_from(value) {
            Ok(value) => self.op(b"J").op(&value.to_le_bytes()),
            Err(_) => self.op(&[0x8a, 8]).op(&value.to_le_bytes()),
        }
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn integers(self, values: &[i64]) -> Self {
        values
            .iter()
            .fold(self.op(b"("), |p, &v| p.integer(v))
            .op(b"t")
    }

    pub fn tensor(self, tensor: &Tensor) -> Self {
        self.tensor_in(tensor, b"")
    }

    /// A tensor as before zip archives: no storage is a view of another.
    pub fn legacy_tensor(self, tensor: &Tensor) -> Self {
        self.tensor_in(tensor, b"N")
    }

    fn tensor_in(self, tensor: &Tensor, view: &[u8]) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(b"((")
            .string("storage")
            .global("torch", tensor.storage)
            .string(tensor.key)
            .string("cpu")
            .integer(tensor.numel)
            .op(view)
            .op(b"tQ")
            .integer(tensor.offset)
            .integers(tensor.shape)
            .integers(tensor.strides)
            .op(b"\x89")
            .global("collections", "OrderedDict")
            .op(b")RtR")
    }

    /// A state dict: one tensor per name.
    pub fn state_dict(tensors: &[(&str, Tensor)]) -> Self {
        let start = Self::default().op(b"\x80\x02}(");
        tensors
            .iter()
            .fold(start, |p, (name, t)| p.string(name).tensor(t))
            .op(b"u.")
    }
}

/// A tensor as a pickle spells it.
#[derive(Clone, Copy)]
pub struct Tensor {
    pub storage: &'static str,
    pub key: &'static str,
    pub numel: i64,
    pub offset: i64,
    pub shape: &'static [i64],
    pub strides: &'static [i64],
}

impl Tensor {
    /// Twelve f32 in storage 0, as [3, 4].
    pub const PLAIN: Self = Self {
        storage: "FloatStorage",
        key: "0",
        numel: 12,
        offset: 0,
        shape: &[3, 4],
        strides: &[4, 1],
    };
}

/// What `torch.save` wrote before zip archives: a pickle of what is saved, and the storages.
pub fn legacy_torch(
    version: i64,
    little: bool,
    saved: &Pickle,
    storages: &[(&str, Vec<u8>)],
) -> Vec<u8> {
    let start = || Pickle::default().op(b"\x80\x02");
    let magic = start().op(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.");
    let machine = start()
        .op(b"}(")
        .string("protocol_version")
        .integer(version);
    let machine = machine
        .string("little_endian")
        .op(if little { b"\x88" } else { b"\x89" })
        .op(b"u.");
    let keys = storages
        .iter()
        .fold(start().op(b"]("), |keys, (key, _)| keys.string(key));
    let pickles = [
        &magic,
        &start().integer(version).op(b"."),
        &machine,
        saved,
        &keys.op(b"e."),
    ];
    let mut bytes: Vec<u8> = pickles.into_iter().flat_map(|p| p.0.clone()).collect();
    for (_, data) in storages {
        bytes.extend((data.len() as u64 / 4).to_le_bytes());
        bytes.extend(data);
    }
    bytes
}

/// A torch archive with that pickle and the given storages.
pub fn torch_archive(pickle: &Pickle, storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![
        ("data.pkl", pickle.0.clone()),
        ("byteorder", b"little".to_vec()),
    ];
    entries.extend(storages.iter().cloned());
    archive(&entries, CompressionMethod::Stored)
}

/// A zip archive in which every entry lies in the folder `model`.
pub fn archive(entries: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, content) in entries {
        zip.start_file(format!("model/{name}"), options)
            .expect("in memory");
        zip.write_all(content).expect("in memory");
    }
    zip.finish().expect("in memory").into_inner()
}
