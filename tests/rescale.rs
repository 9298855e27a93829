//! RWKV in f16: a residual stream that grows beyond what f16 holds is halved from layer to layer, and the
//! logits are those of f32.

use std::path::Path;
use std::process::{Command, Output};

use fusec_runtime::checkpoint::Checkpoint;

fn fusec(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("the binary starts")
}

/// Multiplies what layers add to the stream: the last product of each half.
fn amplify(file: &Path, ends: [&str; 2], factor: f32) {
    let mut bytes = std::fs::read(file).expect("a file");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let mut found = 0;
    for (name, entry) in header.as_object().expect("an object") {
        if !ends.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        found += 1;
        let at = |n: usize| entry["data_offsets"][n].as_u64().expect("an offset") as usize;
        for number in bytes[8 + length + at(0)..8 + length + at(1)].chunks_exact_mut(4) {
            let x = f32::from_le_bytes(number.try_into().expect("4 bytes"));
            number.copy_from_slice(&(factor * x).to_le_bytes());
        }
    }
    assert_eq!(found, 2 * LAYERS);
    std::fs::write(file, bytes).expect("written");
}

const LAYERS: usize = 6;

#[test]
fn a_stream_too_large_for_f16_is_rescaled() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let dir = tempfile::tempdir().expect("a directory");
    let sizes = |of: &str| -> Vec<String> {
        let of = of.split(' ').map(str::to_owned);
        let layers = format!("L={LAYERS}");
        let all = [layers, "V=64".into(), "H=2".into(), "N=16".into()].into_iter();
        all.chain(of)
            .flat_map(|size| ["--axis".into(), size])
            .collect()
    };
    for (model, sizes) in [
        ("rwkv6", sizes("R=8 Rd=16")),
        ("rwkv7", sizes("Rw=8 Ra=8 Rv=8 Rg=8")),
    ] {
        let path = models.join(format!("{model}.toml"));
        let path = path.to_str().expect("a path");
        let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
        let weights = dir.path().join("weights.safetensors");
        let export = [
            "export",
            path,
            "--weights",
            "random:1",
            "-o",
            "weights.safetensors",
        ];
        let out = fusec(dir.path(), &[&export[..], &sizes].concat());
        assert!(out.status.success(), "{out:?}");
        amplify(&weights, ["time_mix.output", "channel_mix.value"], 20_000.0);
        std::fs::remove_file(dir.path().join("f32.safetensors")).ok();
        for (dtype, device, rescale, status, output) in [
            ("f32", "cpu", "0", 0, "f32.safetensors"),
            ("f16", "emulator", "0", 2, "none.safetensors"),
            ("f16", "emulator", "1", 0, "f16.safetensors"),
        ] {
            let set = format!("rescale={rescale}");
            let run = [
                "run",
                path,
                "--weights",
                "weights.safetensors",
                "--dtype",
                dtype,
                "--device",
                device,
                "--set",
                &set,
                "--shape",
                "B=1,T=16",
                "--output",
                output,
            ];
            let out = fusec(dir.path(), &[&run[..], &sizes].concat());
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!(
                out.status.code(),
                Some(status),
                "{model} {dtype} {rescale}: {said}"
            );
            assert_eq!(status == 2, said.contains("not finite"), "{said}");
        }
        let logits = |file: &str| {
            let file = Checkpoint::open(dir.path().join(file)).expect("outputs");
            file.read_f32("logits").expect("logits")
        };
        let (want, got) = (logits("f32.safetensors"), logits("f16.safetensors"));
        let square = |x: f32| f64::from(x).powi(2);
        let error: f64 = want.iter().zip(&got).map(|(w, g)| square(w - g)).sum();
        let size: f64 = want.iter().map(|w| square(*w)).sum();
        let error = (error / size).sqrt();
        assert!(error > 0.0 && error < 3e-2, "{model}: {error}");
    }
}
