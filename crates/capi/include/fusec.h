/*
 * fusec from C: compile, run, look at. Made by cbindgen from crates/capi; tests/header.rs compares.
 *
 * Tensors are [batch, time, axes...]: in memory of the host for fusec_run, of the device for fusec_submit.
 * Functions that can fail return 0, or a status and, where `error` is not NULL, a text in it, which
 * fusec_text_free frees. A program may be used from several threads; calls of fusec_run are then done one after
 * the other.
 */

#ifndef FUSEC_H
#define FUSEC_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Nothing went wrong.
#define FUSEC_OK 0

// An argument is wrong: the text names it.
#define FUSEC_WRONG 1

// Something failed that no argument caused.
#define FUSEC_FAILED 2

// Element types of `fusec_tensor`.
#define FUSEC_F32 0

// bfloat16.
#define FUSEC_BF16 1

// IEEE half.
#define FUSEC_F16 2

// 32-bit integers: token ids.
#define FUSEC_I32 3

// 64-bit integers: token ids.
#define FUSEC_I64 4

// `fusec_ports`: what a run is given.
#define FUSEC_INPUTS 0

// `fusec_ports`: what a run gives.
#define FUSEC_OUTPUTS 1

// `fusec_ports`: parameters.
#define FUSEC_PARAMS 2

// `fusec_ports`: what is carried from run to run.
#define FUSEC_STATES 3

// A compiled model.
typedef struct fusec_program fusec_program;

// What is carried from one run to the next.
typedef struct fusec_state fusec_state;

// How a model is compiled. All zero (`fusec_options options = {0};`) is what is usual.
typedef struct {
  // `auto` (NULL), `cpu`, `emulator`, `cuda:N`.
  const char *device;
  // In which type kernels store activations: `f32` (NULL), `bf16`, `f16`.
  const char *dtype;
  // A checkpoint, `random:SEED`, `initial:SEED`; NULL: the model's own, or parameters in each run.
  const char *weights;
  // A preset of the model text, or NULL.
  const char *preset;
  // `auto` (NULL), `greedy`, `unfused`, `random:SEED`.
  const char *plan;
  // The GPU whose costs are used; NULL: `h200`.
  const char *profile;
  // Sequences of the run that costs are computed for; 0: 8.
  size_t batch;
  // Its tokens; 0: 2048.
  size_t time;
  // Fetch no compiler.
  bool offline;
} fusec_options;

// A tensor that a program takes or gives. It lives as long as the program.
typedef struct {
  // Its name in the model.
  const char *name;
  // Its shape with the names of axes: `[B, T, H=32, N=64]`.
  const char *shape;
  // How many axes it has besides batch and time (or, a state, batch and tokens).
  size_t axes;
  // Their extents.
  const size_t *extents;
} fusec_port;

// A tensor: in memory of the host, or, for `fusec_submit`, where the kernels run.
typedef struct {
  // Its first element.
  const void *data;
  // One of the element types.
  uint32_t dtype;
  // How many axes it has.
  size_t axes;
  // Their extents.
  const size_t *shape;
  // Elements from one place on each axis to the next; NULL: row-major without gaps.
  const ptrdiff_t *strides;
} fusec_tensor;

// A run on memory of the device, for `fusec_submit`. What is not needed is zero.
typedef struct {
  // Inputs, in the order of `FUSEC_INPUTS`.
  const fusec_tensor *inputs;
  // How many.
  size_t input_count;
  // Parameters, in the order of `FUSEC_PARAMS`; none where the program has weights.
  const fusec_tensor *params;
  // How many.
  size_t param_count;
  // States before the run, in the order of `FUSEC_STATES`; NULL: before the first token.
  const fusec_tensor *before;
  // Where the states after the run go, row-major, other memory than before; NULL: nobody wants them.
  void *const *after;
  // How many states, if there are any of either.
  size_t state_count;
  // Tokens seen before the run.
  int64_t position;
  // Where the outputs go, in the order of `FUSEC_OUTPUTS`, row-major.
  void *const *outputs;
  // How many.
  size_t output_count;
  // Memory that the run alone uses.
  void *workspace;
  // Its bytes, at least those of `fusec_workspace`.
  size_t workspace_bytes;
  // The stream: a `CUstream` or `cudaStream_t`.
  void *stream;
} fusec_submission;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Compiles the model at `path` (a model text, a directory with one, or a checkpoint) and writes it to
// `program`; `options` may be NULL.
//
// # Safety
//
// Texts end with a zero byte; `program` is the address of a pointer, `error` is or is NULL.
int fusec_compile(const char *path,
                  const fusec_options *options,
                  fusec_program **program,
                  char **error);

// Compiles a model text, which includes nothing, and writes it to `program`; `options` may be NULL.
//
// # Safety
//
// As of `fusec_compile`.
int fusec_compile_text(const char *model,
                       const fusec_options *options,
                       fusec_program **program,
                       char **error);

// Frees a program; NULL is allowed.
//
// # Safety
//
// It comes from `fusec_compile` or `fusec_compile_text`, and is freed once.
void fusec_program_free(fusec_program *program);

// Frees a text; NULL is allowed.
//
// # Safety
//
// It comes from a function of this library, and is freed once.
void fusec_text_free(char *text);

// How many tensors of a kind (`FUSEC_INPUTS`, ...) a program has; 0 for what is no kind.
//
// # Safety
//
// The program is one, or NULL.
size_t fusec_ports(const fusec_program *program, uint32_t kind);

// The `index`-th tensor of a kind; all of it is zero where there is none.
//
// # Safety
//
// The program is one, or NULL.
fusec_port fusec_port_of(const fusec_program *program, uint32_t kind, size_t index);

// The plan for people, to be freed with `fusec_text_free`; NULL where there is none, and why in `error`.
//
// # Safety
//
// The program is one; `error` is the address of a pointer, or NULL.
char *fusec_plan(const fusec_program *program,
                 char **error);

// A state before the first token, for `fusec_run`.
fusec_state *fusec_state_new(void);

// Frees a state; NULL is allowed.
//
// # Safety
//
// It comes from `fusec_state_new`, and is freed once.
void fusec_state_free(fusec_state *state);

// Copies the `index`-th state (`FUSEC_STATES`), row-major, to `values`, which holds `count` numbers: as many
// as it has for the batch of the last run.
//
// # Safety
//
// Program and state are what they are called, `values` has room, `error` is the address of a pointer or
// NULL.
int fusec_state_read(const fusec_program *program,
                     const fusec_state *state,
                     size_t index,
                     float *values,
                     size_t count,
                     char **error);

// Runs B sequences of T tokens.
//
// Inputs in the order of `FUSEC_INPUTS`; parameters in that of `FUSEC_PARAMS`, none where the program has
// weights. `outputs`: one address per output, where its numbers go, float, row-major `[B, T, axes...]`;
// the caller has room for them. `state`: what is gone on from and brought up to date; NULL: from the
// beginning, and forgotten. Where the run fails, the state is as it was.
//
// # Safety
//
// The pointers are what their types and this text say; nobody writes to the inputs meanwhile.
int fusec_run(const fusec_program *program,
              fusec_state *state,
              const fusec_tensor *inputs,
              size_t input_count,
              const fusec_tensor *params,
              size_t param_count,
              float *const *outputs,
              size_t output_count,
              char **error);

// In which type the `index`-th tensor of a kind lies for `fusec_submit`: one of the element types, written to
// `dtype`. Not for programs of device `cpu`.
//
// # Safety
//
// The program is one, `dtype` has room, `error` is the address of a pointer or NULL.
int fusec_dtype_of(const fusec_program *program,
                   uint32_t kind,
                   size_t index,
                   uint32_t *dtype,
                   char **error);

// Bytes of memory that a run of `batch` sequences of `time` tokens needs beside its tensors, for `fusec_submit`.
//
// # Safety
//
// The program is one, `bytes` has room, `error` is the address of a pointer or NULL.
int fusec_workspace(const fusec_program *program,
                    size_t batch,
                    size_t time,
                    size_t *bytes,
                    char **error);

// Submits a run to the caller's stream, on the caller's memory of the device: nothing is copied or allocated, and
// nothing is waited for. Tensors are row-major, at multiples of 16 bytes, in the types of `fusec_dtype_of`; all of
// them are there until the stream has come to the end of the run, and so is the program. On device `emulator`
// memory is the host's, and the run is done when this returns.
//
// # Safety
//
// The pointers are what their types and this text say.
int fusec_submit(const fusec_program *program,
                 const fusec_submission *run,
                 char **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FUSEC_H */
