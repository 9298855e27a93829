{
    // out[left, right] = sum over all rows{% if inner > 1 %} and inner{% endif %} of a(row, left) * b(row, right) on the FP32 units: a tile of
    // {{ tile.columns[0] }} x {{ tile.columns[1] }} per block, {{ own[0] }} x {{ own[1] }} per thread, two buffers of {{ depth }} rows in shared memory.
    constexpr int TILE_L = {{ tile.columns[0] }}, TILE_R = {{ tile.columns[1] }}, TILE_K = {{ depth }}, THREADS = {{ threads }};
    constexpr int THREAD_L = TILE_L / 16, THREAD_R = TILE_R / 16;
    constexpr int LEFT = {{ sides[0].columns }}, RIGHT = {{ sides[1].columns }};
    constexpr int TILES_R = (RIGHT + TILE_R - 1) / TILE_R, TILES = (LEFT + TILE_L - 1) / TILE_L * TILES_R;
    constexpr int A_PITCH = TILE_L + 4, B_PITCH = TILE_R + 4;
{%- if decode %}
    {{ decode | indent }}
{%- endif %}
    const int left0 = int(block % TILES) / TILES_R * TILE_L, right0 = int(block % TILES) % TILES_R * TILE_R;
{%- include "row_sum_rows.cu" %}
    const i64 steps = begin < end ? (end - begin + TILE_K - 1) / TILE_K : 0;
    // Thread (ty, tx) owns columns ty * THREAD_L.. of a and tx, tx + 16, ... of b: neighbours store side by side.
    const int tx = tid % 16, ty = tid / 16;
    float* const a_tiles = smem;                              // [2][TILE_K][A_PITCH]
    float* const b_tiles = a_tiles + 2 * TILE_K * A_PITCH;    // [2][TILE_K][B_PITCH]
    float acc[THREAD_L][THREAD_R] = {};
{%- for s in sides %}
    constexpr int {{ s.upper }}_CHUNKS = TILE_K * {{ s.chunks }}, {{ s.upper }}_PER_THREAD = ({{ s.upper }}_CHUNKS + THREADS - 1) / THREADS;
    float {{ s.name }}_next[{{ s.upper }}_PER_THREAD][{{ s.vector }}];
{%- endfor %}
    // Global memory to registers.
    auto fetch = [&](i64 step) {
{%- for s in sides %}
{%- include "row_sum_fetch.cu" %}
{%- endfor %}
    };
    // Registers to a buffer of shared memory.
    auto place = [&](int buffer) {
{%- for s in sides %}
#pragma unroll
        for (int ti = 0; ti < {{ s.upper }}_PER_THREAD; ++ti) {
            const int chunk = tid + ti * THREADS;
            if (chunk < {{ s.upper }}_CHUNKS) store_vec({{ s.name }}_tiles + (buffer * TILE_K + chunk / {{ s.chunks }}) * {{ s.pitch }} + chunk % {{ s.chunks }} * {{ s.vector }}, {{ s.name }}_next[ti]);
        }
{%- endfor %}
    };
    if (steps > 0) {
        fetch(0);
        place(0);
    }
    __syncthreads();
    for (i64 step = 0; step < steps; ++step) {
        const int buffer = int(step & 1);
        if (step + 1 < steps) fetch(step + 1);
        const float* const a_tile = a_tiles + buffer * TILE_K * A_PITCH + ty * THREAD_L;
        const float* const b_tile = b_tiles + buffer * TILE_K * B_PITCH + tx;
#pragma unroll
        for (int depth = 0; depth < TILE_K; ++depth) {
            float a_regs[THREAD_L], b_regs[THREAD_R];
            load_vec(a_tile + depth * A_PITCH, a_regs);
#pragma unroll
            for (int tj = 0; tj < THREAD_R; ++tj) b_regs[tj] = b_tile[depth * B_PITCH + 16 * tj];
#pragma unroll
            for (int ti = 0; ti < THREAD_L; ++ti)
#pragma unroll
                for (int tj = 0; tj < THREAD_R; ++tj) acc[ti][tj] += a_regs[ti] * b_regs[tj];
        }
        if (step + 1 < steps) {
            place(1 - buffer);
            __syncthreads();
        }
    }
#pragma unroll
    for (int ti = 0; ti < THREAD_L; ++ti)
#pragma unroll
        for (int tj = 0; tj < THREAD_R; ++tj) {
            const i64 left = left0 + ty * THREAD_L + ti, right = right0 + tx + 16 * tj;
            if (left < LEFT && right < RIGHT) {
                const float value = acc[ti][tj];
                {{ store }}
            }
        }
}
