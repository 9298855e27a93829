//! Sizes: each limit just below and just above it, and runs that this machine has no memory for.

use std::process::Command;

use crate::command::{answer, fusec};
use crate::tokens;

/// A width at which `T = 2^20` rows of it are as many elements as a tensor may have.
const WIDE: &str = "C=1048576";

#[test]
fn sizes_are_accepted_up_to_their_limit() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let model = model.as_str();
    let plan = |shape: &'static str| vec!["plan", model, "--plan", "unfused", "--shape", shape];
    let wide = |shape: &'static str| {
        let mut arguments = plan(shape);
        arguments.extend(["--axis", WIDE, "--axis", "V=2"]);
        arguments
    };
    let vocabulary = |axis: &'static str| {
        let mut arguments = plan("B=1,T=1");
        arguments.extend(["--axis", axis]);
        arguments
    };
    let steps = |n: &'static str| {
        vec![
            "verify",
            model,
            "--weights",
            "random:1",
            "--device",
            "cpu",
            "--shape",
            "T=2",
            "--steps",
            n,
        ]
    };
    // What is accepted is only planned, or, for steps, stopped by the memory it would need.
    let cases: [(Vec<&str>, Option<&str>); 13] = [
        (plan("T=1073741824"), None),
        (
            plan("T=1073741825"),
            Some("T (tokens) is 1073741825, allowed are 1 to 1073741824"),
        ),
        (plan("B=1048576"), None),
        (
            plan("B=1048577"),
            Some("B (sequences) is 1048577, allowed are 1 to 1048576"),
        ),
        (plan("B=2,T=1073741824"), None),
        (
            plan("B=3,T=1073741824"),
            Some("B times T is 3221225472, allowed are 1 to 2147483648"),
        ),
        (
            plan("B=18446744073709551615,T=18446744073709551615"),
            Some("allowed are 1 to"),
        ),
        (
            plan("B=99999999999999999999999"),
            Some("is not a whole number"),
        ),
        (wide("T=1048576"), None),
        (
            wide("T=1048577"),
            Some("elements at B=1, T=1048577, allowed are 1099511627776"),
        ),
        (vocabulary("V=1073741824"), None),
        (
            vocabulary("V=1073741825"),
            Some("`logits` has 1073741825 elements per token, kernels take up to 1073741824"),
        ),
        (
            steps("1048577"),
            Some("the number of steps is 1048577, allowed are 1 to 1048576"),
        ),
    ];
    for (arguments, refused) in cases {
        let answer = answer(&mut fusec(dir.path(), &arguments));
        match refused {
            None => answer.expect(0, &[]),
            Some(says) => answer.expect(2, &[says]),
        }
    }
}

#[test]
fn a_run_without_the_memory_for_it_is_refused_with_figures() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let model = model.as_str();
    let on = |verb: &'static str, device: &'static str, shape: &'static str| {
        vec![
            verb,
            model,
            "--weights",
            "random:1",
            "--device",
            device,
            "--shape",
            shape,
        ]
    };
    for arguments in [
        on("run", "cpu", "B=1,T=1000000000"),
        on("run", "cpu", "B=20,T=100000000"),
        on("run", "emulator", "B=20,T=100000000"),
        on("verify", "cpu", "B=1,T=1000000000"),
        on("verify", "emulator", "B=1,T=1000000000"),
        on("bench", "cpu", "B=1,T=1000000000"),
    ] {
        let answer = answer(&mut fusec(dir.path(), &arguments));
        answer.expect(2, &["needs", "weights", "largest buffer: `logits`", "free"]);
    }
}

/// Wherever the system refuses memory, that is an error and no abort: the limit of the process goes up in
/// small steps, so that it is met in many places.
#[cfg(target_os = "linux")]
#[test]
fn a_system_that_refuses_memory_ends_in_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let mut refused = 0;
    let limited = |kilobytes: usize, arguments: &str| {
        let script = format!(
            "ulimit -v {kilobytes}; exec '{}' {arguments}",
            env!("CARGO_BIN_EXE_fusec")
        );
        answer(
            Command::new("sh")
                .args(["-c", &script])
                .env("RAYON_NUM_THREADS", "2"),
        )
    };
    for kilobytes in (20_000..140_000).step_by(10_000) {
        // Below some size the system cannot even begin the program.
        if limited(kilobytes, "--version").status != Some(0) {
            continue;
        }
        let run = format!("run '{model}' --weights random:1 --device cpu --shape B=8,T=2048");
        let answer = limited(kilobytes, &run);
        if answer.status != Some(0) {
            answer.expect(2, &[]);
            refused += 1;
        }
    }
    assert!(refused > 0, "the limits are too high to be met");
}
