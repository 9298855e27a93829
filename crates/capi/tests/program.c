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
  mistakes();
  puts("all checks passed");
  return 0;
}
