//! A device profile as text, in the form of the files under devices/.

use fusec_fuse::Device;
use std::fmt::Write;

/// What a figure is, in words.
fn meaning(field: &str) -> &'static str {
    match field {
        "sms" => "streaming multiprocessors",
        "memory_tbs" => "device memory, TB/s",
        "l2_mb" => "L2 cache, MB",
        "l2_tbs" => "L2 cache, TB/s",
        "tensor_tflops" => {
            "16-bit inputs, f32 accumulation, dense, TFLOP/s: what fusec's matrix product reaches"
        }
        "fp32_tflops" => "FP32 on CUDA cores, TFLOP/s",
        "sfu_per_sm" => "special functions per SM and clock",
        "clock_ghz" => "clock under load, GHz",
        "step_us" => "one step of a sequential recurrence (64-wide heads), us",
        "barrier_us" => "one block-wide exchange inside a row or step, us",
        "grid_barrier_us" => "one barrier of all blocks of a grid, us",
        "stream_launch_us" => "start of a kernel on a stream, us",
        "graph_launch_us" => "start of a kernel inside a CUDA graph, us",
        "smem_kb" => "shared memory one block may use, KiB",
        "registers" => "32-bit registers per SM",
        _ => "",
    }
}

/// The text; `note` says who measured when with what.
pub fn text(device: &Device, note: &str) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{text}");
    };
    for note in note.lines() {
        line(format_args!("# {note}"));
    }
    line(format_args!("name = {:?}", device.name));
    line(format_args!("title = {:?}", device.title));
    line(format_args!("arch = {:?}", device.arch));
    line(format_args!(""));
    for (field, figure) in device.figures() {
        let from = figure.from;
        line(format_args!("# {}", meaning(field)));
        line(format_args!(
            "{field} = {{ value = {}, from = \"{from}\" }}",
            four_digits(figure.value)
        ));
    }
    line(format_args!(""));
    for note in FITTED_NOTE {
        line(format_args!("# {note}"));
    }
    line(format_args!("[fitted]"));
    for (field, meaning, figure) in device.fitted.figures() {
        for meaning in meaning {
            line(format_args!("#{meaning}"));
        }
        line(format_args!(
            "{field} = {{ value = {}, from = \"{}\", on = {:?} }}",
            four_digits(figure.value),
            figure.from,
            figure.on
        ));
    }
    out
}

/// What stands above the fitted figures.
const FITTED_NOTE: [&str; 2] = [
    "What predictions were fitted with (from = \"fit\"), or what was taken over from another device",
    "(from = \"estimate\"); `on` says whose results, and of which day.",
];

/// Four significant digits, without zeros at the end; whole numbers are kept whole.
fn four_digits(value: f64) -> String {
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = match value.fract() == 0.0 {
        true => 0,
        false => usize::try_from(3 - magnitude).unwrap_or(0),
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_four_digits() {
        for (value, text) in [
            (4.2374, "4.237"),
            (132.0, "132"),
            (65536.0, "65536"),
            (714.63, "714.6"),
            (0.0312, "0.0312"),
            (1.5, "1.5"),
            (15.999_96, "16"),
            (2.0, "2"),
        ] {
            assert_eq!(four_digits(value), text);
        }
    }

    #[test]
    fn compiled_in_profiles_say_of_a_fitted_figure_what_the_cost_model_says() {
        let devices = concat!(env!("CARGO_MANIFEST_DIR"), "/../../devices");
        for name in Device::names() {
            let path = format!("{devices}/{name}.toml");
            let file = std::fs::read_to_string(&path).expect("a file of the repository");
            let text = text(&Device::find(name).expect("compiled in"), "");
            let fitted = |text: &str| {
                text.split_once("\n# What predictions")
                    .map(|t| t.1.to_owned())
            };
            assert_eq!(fitted(&file), fitted(&text), "{path}");
        }
    }

    #[test]
    fn the_text_of_a_profile_reads_as_that_profile() {
        for name in Device::names() {
            let device = Device::find(name).expect("compiled in");
            let text = text(&device, "a note\nof two lines");
            let read: Device = toml::from_str(&text).expect("a profile");
            assert_eq!(read, device, "{text}");
        }
    }
}
