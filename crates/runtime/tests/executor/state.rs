//! States in files.

use crate::sample;
use fusec_ir::StateId;
use fusec_runtime::executor::{HostState, StateError};

fn state() -> HostState {
    let mut state = HostState::initial(&sample::graph(), 2);
    state.position = 41;
    for (id, tensor) in &mut state.tensors {
        for (i, x) in tensor.iter_mut().enumerate() {
            *x = i as f32 + id.0 as f32 * 0.5;
        }
    }
    state
}

#[test]
fn the_initial_state_is_what_the_graph_says() {
    let state = HostState::initial(&sample::graph(), 2);
    assert_eq!(
        state.by_name(&sample::graph(), "leak.S"),
        Some(&[0.25; 10][..])
    );
    assert_eq!(
        state.by_name(&sample::graph(), "x.tail"),
        Some(&[0.0; 10][..])
    );
}

#[test]
fn a_state_survives_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.safetensors");
    state().save(&sample::graph(), &path).expect("written");
    assert_eq!(
        HostState::load(&sample::graph(), &path).expect("read"),
        state()
    );
    let files = std::fs::read_dir(dir.path()).expect("a directory").count();
    assert_eq!(files, 1, "no temporary file stays");
}

#[test]
fn a_state_of_another_model_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.safetensors");
    state().save(&sample::graph(), &path).expect("written");

    let mut renamed = sample::graph();
    renamed.states[0].name = "other.S".into();
    let error = HostState::load(&renamed, &path).expect_err("renamed");
    assert!(
        error.to_string().contains("has no state `leak.S`"),
        "{error}"
    );

    let mut more = sample::graph();
    more.states.push(fusec_ir::State {
        name: "new.S".into(),
        ..more.states[0].clone()
    });
    let error = HostState::load(&more, &path).expect_err("one more");
    assert!(error.to_string().contains("`new.S` is missing"), "{error}");

    let mut wider = sample::graph();
    wider.axes[0].size = 6;
    let error = HostState::load(&wider, &path).expect_err("wider");
    assert!(
        error
            .to_string()
            .contains("`leak.S` has 10 elements, but at B=2 it has 12"),
        "{error}"
    );

    let mut short = state();
    short.tensors.insert(StateId(1), vec![0.0; 3]);
    assert!(matches!(
        short.check(&sample::graph()),
        Err(StateError::Elements {
            got: 3,
            want: 10,
            ..
        })
    ));
    let missing = dir.path().join("no/such/place.safetensors");
    let error = state()
        .save(&sample::graph(), &missing)
        .expect_err("no directory");
    assert!(
        error.to_string().contains("no/such/place.safetensors"),
        "{error}"
    );
}
