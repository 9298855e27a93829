//! What is known of a model that was planned before saves work and changes no plan.

use fusec_fuse::{Device, Known, Mode, Options, Shape, Storage, Submit, plan};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};

const TEXT: &str = r#"
name = "known"
[axes]
V = 32
C = 16
L = 2
[param]
emb  = { shape = "V, C" }
rate = { shape = "C", init = "uniform(-1, 1)" }
w    = { shape = "C, C" }
[recurrence.average]
inputs  = "v[C], a[C]"
state   = "S[C]"
outputs = "s[C]"
step    = """
  S = a * S + (1 - a) * v
  s = S
"""
[model]
flow = """
  x = gather(emb, ids)
  repeat l in L {
    x = x + average(x @ w, f32(sigmoid(rate)))
  }
  logits = rms_norm(x, C, eps = 1e-5) @ emb
  return logits
"""
"#;

fn graph(text: &str) -> Graph {
    compile(
        &ModelSource::from_text("known.toml", text),
        &Overrides::default(),
    )
    .unwrap_or_else(|error| panic!("{error:?}"))
}

/// How much of a model is planned again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Again {
    Nothing,
    Some,
    All,
}

#[test]
fn what_has_not_changed_is_not_planned_again_and_the_plan_is_that_of_a_first_time() {
    let device = Device::find("h200").expect("a profile");
    let options = |time| Options {
        shape: Shape { batch: 2, time },
        storage: Storage::Bf16,
        mode: Mode::Auto,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    for (what, from, to, again) in [
        ("nothing", "known", "known", Again::Nothing),
        ("a name", "rate", "pace", Again::Nothing),
        (
            "where it stands",
            "\n  s = S",
            "\n\n  # the mean\n  s = S",
            Again::Nothing,
        ),
        ("the number of layers", "L = 2", "L = 5", Again::Nothing),
        ("the head", "rms_norm", "layer_norm", Again::Some),
        ("the layers", "x = x + av", "x = av", Again::Some),
        ("a size", "C = 16", "C = 24", Again::All),
        ("a step", "(1 - a) * v", "a * v", Again::All),
        ("an initial state", "\"S[C]\"", "\"S[C] = 1\"", Again::All),
    ] {
        let known = Known::default();
        let options = options(64);
        known.plan(&graph(TEXT), &options).expect("a plan");
        let before = known.made();
        let text = TEXT.replace(from, to);
        let got = known.plan(&graph(&text), &options).expect("a plan");
        let made = known.made() - before;
        let fresh = Known::default();
        let want = fresh.plan(&graph(&text), &options).expect("a plan");
        assert_eq!(got, want, "{what}");
        assert_eq!(
            want,
            plan(&graph(&text), &options).expect("a plan"),
            "{what}"
        );
        let found = match made {
            0 => Again::Nothing,
            some if some < fresh.made() => Again::Some,
            _ => Again::All,
        };
        assert_eq!(found, again, "{what}: {made} of {}", fresh.made());
    }
    // What is planned for is no less of a difference.
    let known = Known::default();
    for time in [64, 1] {
        let got = known.plan(&graph(TEXT), &options(time)).expect("a plan");
        assert_eq!(got, plan(&graph(TEXT), &options(time)).expect("a plan"));
    }
}
