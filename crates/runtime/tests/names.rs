//! A model may call its things anything: kernels whose names would be words of C++, functions of
//! its library, macros, primitives or variables of the generator compile, and compute what the
//! interpreter does.

use common::Case;
use fusec_fuse::{Mode, Storage};
use fusec_ir::language::{ModelSource, Overrides, compile};

mod common;

/// Names that mean something to somebody else.
const HOSTILE: [&str; 40] = [
    // Functions of the C library, and of the emulator.
    "round",
    "nan",
    "free",
    "strcpy",
    "execv",
    "malloc",
    "memcpy",
    "snprintf",
    "main",
    "_start",
    "emulator",
    "cp_async_land",
    "emulator_table",
    // Words of C++.
    "int",
    "float",
    "and",
    "xor",
    "template",
    "constexpr",
    "operator",
    "char8_t",
    // Macros and variables of CUDA.
    "threadIdx",
    "blockIdx",
    "warpSize",
    "FUSEC_INF",
    "FUSEC_PHASE",
    "__syncthreads",
    "linux",
    "NULL",
    // Primitives.
    "fexp",
    "to_f32",
    "warp_sum",
    "i64",
    "bf16_t",
    // What the generator and its templates call their own.
    "smem",
    "row",
    "elem",
    "B",
    "block",
    "activation",
];

/// A model in which every kind of thing that can be named has a name from the list.
fn text(name: impl Fn(usize) -> String) -> String {
    let [
        axis,
        table,
        gain,
        rec,
        formal,
        second,
        state,
        step,
        out,
        block,
        arg,
        a,
        b,
        c,
        d,
        root,
    ] = std::array::from_fn(name);
    format!(
        r#"
name = "names"
[axes]
{axis} = 32
V_ = 16
L_ = 2
[param]
{table} = {{ shape = "V_, {axis}" }}
head_ = {{ shape = "V_, {axis}" }}
[recurrence.{rec}]
inputs = "{formal}[{axis}], {second}[{axis}]"
state = "{state}[{axis}] = 0.5"
outputs = "{out}[{axis}]"
step = """
  {step} = {formal} * sigmoid({second})
  {state} = {state} * 0.5 + {step}
  {out} = {state} + {formal}
"""
[block.{block}]
args = ["{arg}"]
flow = """
  {a} = rms_norm({arg}, {axis}, eps = 1e-5, gain = {gain}) @ w_
  {b} = {a} - shift({a})
  {c} = {rec}(-{b}, {a})
  return {arg} + silu({c}) * {b}
"""
[block.{block}.param]
{gain} = {{ shape = "{axis}", init = "uniform(-1, 1)" }}
w_ = {{ shape = "{axis}, {axis}" }}
[model]
flow = """
  {d} = gather({table}, ids)
  repeat l_ in L_ {{
    {d} = {block}({d})
  }}
  {root} = {d} @ head_
  return {root}
"""
"#
    )
}

#[test]
fn kernels_compute_the_same_whatever_a_model_calls_its_things() {
    // In each round every place has another name, and every name is in many places in the end.
    for first in (0..HOSTILE.len()).step_by(5) {
        let text = text(|place| HOSTILE[(first + 7 * place) % HOSTILE.len()].to_string());
        let source = ModelSource::from_text("names", text.as_str());
        let graph = compile(&source, &Overrides::default())
            .unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        for mode in [Mode::Auto, Mode::Unfused] {
            let case = Case {
                name: "names",
                graph: &graph,
                storage: Storage::F32,
                mode,
                batch: 2,
                times: &[5, 1],
                bound: 1e-5,
            };
            common::check(&case).unwrap_or_else(|why| panic!("{why}\n{text}"));
        }
    }
}
