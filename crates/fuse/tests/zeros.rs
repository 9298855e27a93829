//! Where zeros are expected, and it pays, what meets them is left out; and nowhere else.

mod common;

use common::{h200, model, options};
use fusec_fuse::{Mode, Planned, Schedule, plan};

fn leaves_out(planned: &Planned) -> usize {
    let kernels = planned.plan.kernels.iter();
    let bodies = kernels.flat_map(|k| &k.phases).flat_map(|p| &p.lanes);
    let of = bodies.filter(|body| matches!(body.schedule, Schedule::NonZero(_)));
    of.count()
}

#[test]
fn zeros_are_left_out_where_that_pays() {
    let device = h200();
    // Share expected, sequences, tokens, whether the second product of each channel mix leaves them out.
    for (zeros, batch, time, expected) in [
        (0.0, 1, 1, false),
        (0.05, 1, 1, false),
        // The list of what is left costs as much as half of the matrix.
        (0.5, 1, 1, false),
        (0.8, 1, 1, true),
        (0.95, 1, 1, true),
        (0.95, 8, 1, false),
        (0.95, 1, 64, false),
    ] {
        let mut graph = model("rwkv6", Some("1.6b"));
        graph.zeros = zeros;
        let planned = plan(&graph, &options(&device, batch, time, Mode::Auto)).expect("a plan");
        let layers = if expected { graph.layers as usize } else { 0 };
        assert_eq!(leaves_out(&planned), layers, "{zeros} B{batch} T{time}");
        let rule = planned
            .plan
            .forms
            .iter()
            .any(|f| f.starts_with("zero-rows "));
        assert_eq!(rule, expected, "{zeros} B{batch} T{time}");
    }
}

#[test]
fn more_zeros_take_less_time() {
    let device = h200();
    let us = |zeros: f64| {
        let mut graph = model("rwkv7", Some("1.5b"));
        graph.zeros = zeros;
        plan(&graph, &options(&device, 1, 1, Mode::Auto)).map(|p| p.plan.total_us)
    };
    let times = [0.0, 0.5, 0.7, 0.9].map(|zeros| us(zeros).expect("a plan"));
    assert!(
        times.is_sorted_by(|a, b| a >= b) && times[3] < times[0],
        "{times:?}"
    );
}

#[test]
fn a_share_is_from_nothing_to_below_all() {
    let device = h200();
    for zeros in [-0.1, 1.0, f64::NAN] {
        let mut graph = model("gated-scan", None);
        graph.zeros = zeros;
        let error = plan(&graph, &options(&device, 1, 1, Mode::Auto)).expect_err("refused");
        assert!(error.to_string().contains("share of zeros"), "{error}");
    }
}
