/* What a program in C does with the library; tests/c.rs compiles and runs it, as C and as C++. */
#include "fusec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) {                                                        \
      fprintf(stderr, "%d: %s\n", __LINE__, #condition);                       \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static const char *EMA = "name = \"ema\"\n"
                         "[axes]\n"
                         "C = 3\n"
                         "[input]\n"
                         "x = \"C\"\n"
                         "[param]\n"
                         "rate = { shape = \"C\" }\n"
                         "[recurrence.ema]\n"
                         "inputs  = \"x[C], a[C]\"\n"
                         "state   = \"S[C]\"\n"
                         "outputs = \"y[C]\"\n"
                         "step    = '''\n"
                         "  S = a * S + (1 - a) * x\n"
                         "  y = S\n"
                         "'''\n"
                         "[model]\n"
                         "flow = \"return ema(x, sigmoid(rate))\"\n";

static void runs(const char *device) {
  fusec_options options = {0};
  options.device = device;
  fusec_program *program = NULL;
  char *error = NULL;
  int status = fusec_compile_text(EMA, &options, &program, &error);
  if (status != FUSEC_OK)
    fprintf(stderr, "%s\n", error);
  CHECK(status == FUSEC_OK && program && !error);

  CHECK(fusec_ports(program, FUSEC_INPUTS) == 1 && fusec_ports(program, FUSEC_STATES) == 1);
  CHECK(fusec_ports(program, 7) == 0 && fusec_ports(NULL, FUSEC_INPUTS) == 0);
  fusec_port input = fusec_port_of(program, FUSEC_INPUTS, 0);
  CHECK(strcmp(input.name, "x") == 0 && strcmp(input.shape, "[B, T, C=3]") == 0);
  CHECK(input.axes == 1 && input.extents[0] == 3);
  CHECK(fusec_port_of(program, FUSEC_INPUTS, 1).name == NULL);

  /* Two sequences of four tokens, time before batch in memory. */
  float x[4][2][3], rate[3] = {0.0f, 1.0f, -2.0f};
  for (int i = 0; i < 24; i++)
    ((float *)x)[i] = sinf(0.7f * (float)i);
  size_t shape[] = {2, 4, 3}, one[] = {3};
  ptrdiff_t strides[] = {3, 6, 1};
  fusec_tensor tensor = {x, FUSEC_F32, 3, shape, strides};
  fusec_tensor param = {rate, FUSEC_F32, 1, one, NULL};
  float y[2][4][3], again[2][4][3];
  float *room[] = {&y[0][0][0]}, *room_again[] = {&again[0][0][0]};
  fusec_state *state = fusec_state_new();
  CHECK(fusec_run(program, state, &tensor, 1, &param, 1, room, 1, &error) == FUSEC_OK);
  float want[2][3] = {{0}};
  for (int t = 0; t < 4; t++)
    for (int b = 0; b < 2; b++)
      for (int c = 0; c < 3; c++) {
        float a = 1.0f / (1.0f + expf(-rate[c]));
        want[b][c] = a * want[b][c] + (1.0f - a) * x[t][b][c];
        CHECK(fabsf(y[b][t][c] - want[b][c]) < 1e-5f);
      }
  float held[2][3];
  CHECK(fusec_state_read(program, state, 0, &held[0][0], 6, &error) == FUSEC_OK);
  CHECK(fabsf(held[1][2] - want[1][2]) < 1e-5f);
  CHECK(fusec_state_read(program, state, 0, &held[0][0], 5, NULL) == FUSEC_WRONG);

  /* On from there, and from the beginning. */
  CHECK(fusec_run(program, state, &tensor, 1, &param, 1, room_again, 1, &error) == FUSEC_OK);
  CHECK(memcmp(y, again, sizeof y) != 0);
  CHECK(fusec_run(program, NULL, &tensor, 1, &param, 1, room_again, 1, &error) == FUSEC_OK);
  CHECK(memcmp(y, again, sizeof y) == 0);

  /* Mistakes have a status and a text; the program goes on. */
  shape[2] = 2;
  CHECK(fusec_run(program, state, &tensor, 1, &param, 1, room, 1, &error) == FUSEC_WRONG);
  CHECK(strstr(error, "`x`") && strstr(error, "`C` is 2, not 3"));
  fusec_text_free(error), error = NULL;
  shape[2] = 3;
  CHECK(fusec_run(program, state, &tensor, 1, NULL, 0, room, 1, &error) == FUSEC_WRONG);
  CHECK(strstr(error, "rate"));
  fusec_text_free(error), error = NULL;
  CHECK(fusec_run(program, state, NULL, 1, &param, 1, room, 1, NULL) == FUSEC_WRONG);
  CHECK(fusec_run(program, state, &tensor, 1, &param, 1, NULL, 0, NULL) == FUSEC_WRONG);
  CHECK(fusec_run(NULL, state, &tensor, 1, &param, 1, room, 1, NULL) == FUSEC_WRONG);
  tensor.dtype = 77;
  CHECK(fusec_run(program, state, &tensor, 1, &param, 1, room, 1, NULL) == FUSEC_WRONG);

  char *plan = fusec_plan(program, &error);
  CHECK(plan && strstr(plan, "ema"));
  fusec_text_free(plan);
  fusec_state_free(state);
  fusec_program_free(program);
}

/* Memory that kernels take: at a multiple of 16 bytes. */
static void *aligned(size_t bytes) {
  void *place = aligned_alloc(256, (bytes + 255) / 256 * 256);
  CHECK(place);
  return place;
}

/* On memory of the device, which is the host's on the emulator, and on a stream, of which it has none. */
static void submits(void) {
  fusec_options options = {0};
  options.device = "emulator";
  options.dtype = "bf16";
  fusec_program *program = NULL;
  char *error = NULL;
  CHECK(fusec_compile_text(EMA, &options, &program, &error) == FUSEC_OK);
  uint32_t dtype = 77;
  CHECK(fusec_dtype_of(program, FUSEC_INPUTS, 0, &dtype, &error) == FUSEC_OK && dtype == FUSEC_BF16);
  CHECK(fusec_dtype_of(program, FUSEC_STATES, 0, &dtype, &error) == FUSEC_OK && dtype == FUSEC_F32);
  CHECK(fusec_dtype_of(program, FUSEC_STATES, 1, &dtype, NULL) == FUSEC_WRONG);
  CHECK(fusec_dtype_of(program, 9, 0, &dtype, NULL) == FUSEC_WRONG);
  CHECK(fusec_dtype_of(program, FUSEC_PARAMS, 0, &dtype, &error) == FUSEC_OK);
  size_t of_rate = dtype == FUSEC_F32 ? 4 : 2;

  /* Halves of one, two, and so on: exact in bfloat16. */
  const int batch = 2, time = 4;
  uint16_t *x = (uint16_t *)aligned(2 * 2 * 4 * 3), *y = (uint16_t *)aligned(2 * 2 * 4 * 3);
  for (int i = 0; i < batch * time * 3; i++) {
    float value = 0.5f * (float)(i % 7);
    uint32_t bits;
    memcpy(&bits, &value, 4);
    x[i] = (uint16_t)(bits >> 16);
  }
  void *rate = aligned(3 * of_rate);
  memset(rate, 0, 3 * of_rate); /* sigmoid(0) is a half */
  float *held = (float *)aligned(2 * 3 * 4), *later = (float *)aligned(2 * 3 * 4);
  size_t shape[] = {2, 4, 3}, one[] = {3}, of_state[] = {2, 3}, bytes = 0;
  CHECK(fusec_workspace(program, 2, 4, &bytes, &error) == FUSEC_OK && bytes > 0);
  CHECK(fusec_workspace(program, 0, 4, &bytes, NULL) == FUSEC_WRONG);
  fusec_tensor input = {x, FUSEC_BF16, 3, shape, NULL};
  fusec_tensor param = {rate, dtype, 1, one, NULL};
  fusec_tensor state = {held, FUSEC_F32, 2, of_state, NULL};
  void *outputs[] = {y}, *after[] = {held};
  fusec_submission run = {0};
  run.inputs = &input, run.input_count = 1;
  run.params = &param, run.param_count = 1;
  run.after = after, run.state_count = 1;
  run.outputs = outputs, run.output_count = 1;
  run.workspace = aligned(bytes), run.workspace_bytes = bytes;
  CHECK(fusec_submit(program, &run, &error) == FUSEC_OK);
  float want[2][3] = {{0}};
  for (int pass = 0; pass < 2; pass++) {
    const float *got = pass ? later : held;
    for (int b = 0; b < batch; b++)
      for (int c = 0; c < 3; c++) {
        for (int t = 0; t < time; t++) {
          want[b][c] = 0.5f * want[b][c] + 0.5f * 0.5f * (float)(((b * time + t) * 3 + c) % 7);
          uint32_t bits = (uint32_t)y[(b * time + t) * 3 + c] << 16;
          float output;
          memcpy(&output, &bits, 4);
          CHECK(fabsf(output - want[b][c]) <= 0.02f);
        }
        CHECK(fabsf(got[b * 3 + c] - want[b][c]) < 1e-5f);
      }
    if (pass)
      break;
    /* On from there, to other memory. */
    run.before = &state, run.position = time, after[0] = later;
    CHECK(fusec_submit(program, &run, &error) == FUSEC_OK);
  }

  /* What kernels cannot read is said, not read. */
  input.dtype = FUSEC_F32;
  CHECK(fusec_submit(program, &run, &error) == FUSEC_WRONG && strstr(error, "`x` as bfloat16"));
  fusec_text_free(error), error = NULL;
  input.dtype = FUSEC_BF16, shape[2] = 2;
  CHECK(fusec_submit(program, &run, &error) == FUSEC_WRONG && strstr(error, "`C` is 2, not 3"));
  fusec_text_free(error), error = NULL;
  shape[2] = 3, run.workspace_bytes = 16;
  CHECK(fusec_submit(program, &run, &error) == FUSEC_WRONG && strstr(error, "bytes of workspace"));
  fusec_text_free(error), error = NULL;
  run.workspace_bytes = bytes, after[0] = held;
  CHECK(fusec_submit(program, &run, &error) == FUSEC_WRONG && strstr(error, "at one address"));
  fusec_text_free(error), error = NULL;
  after[0] = later, run.state_count = 2;
  CHECK(fusec_submit(program, &run, NULL) == FUSEC_WRONG);
  run.state_count = 1, outputs[0] = NULL;
  CHECK(fusec_submit(program, &run, NULL) == FUSEC_WRONG);
  CHECK(fusec_submit(program, NULL, NULL) == FUSEC_WRONG);
  free(x), free(y), free(rate), free(held), free(later), free(run.workspace);
  fusec_program_free(program);

  /* The interpreter has no kernels. */
  options.device = "cpu", options.dtype = NULL, program = NULL;
  CHECK(fusec_compile_text(EMA, &options, &program, &error) == FUSEC_OK);
  CHECK(fusec_workspace(program, 2, 4, &bytes, &error) == FUSEC_WRONG && strstr(error, "fusec_run"));
  fusec_text_free(error);
  fusec_program_free(program);
}

static void mistakes(void) {
  fusec_program *program = NULL;
  char *error = NULL;
  CHECK(fusec_compile("nowhere.toml", NULL, &program, &error) == FUSEC_FAILED);
  CHECK(!program && strstr(error, "nowhere.toml"));
  fusec_text_free(error), error = NULL;
  CHECK(fusec_compile_text("name = \n", NULL, &program, &error) == FUSEC_WRONG);
  CHECK(!program && strstr(error, "TOML"));
  fusec_text_free(error), error = NULL;
  CHECK(fusec_compile_text(NULL, NULL, &program, NULL) == FUSEC_WRONG);
  fusec_options options = {0};
  options.device = "gpu";
  CHECK(fusec_compile_text(EMA, &options, &program, &error) == FUSEC_WRONG);
  CHECK(strstr(error, "gpu"));
  fusec_text_free(error);
  fusec_text_free(NULL);
  fusec_program_free(NULL);
  fusec_state_free(NULL);
}

int main(void) {
  runs("cpu");
  runs("emulator");
  submits();
  mistakes();
  puts("all checks passed");
  return 0;
}
