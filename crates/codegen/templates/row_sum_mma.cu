{
    // out[left, right] = sum over all rows{% if inner > 1 %} and inner{% endif %} of a(row, left) * b(row, right) on the tensor cores (mma.sync m16n8k16,
    // f32 accumulators): a tile of {{ tile.columns[0] }} x {{ tile.columns[1] }} per block, {{ tile.warps[0] }} x {{ tile.warps[1] }} warps, {{ tile.stages }} stages of {{ tile.depth }} rows in shared memory.
    typedef {{ operand }} Operand;
    constexpr int TILE_L = {{ tile.columns[0] }}, TILE_R = {{ tile.columns[1] }}, TILE_K = {{ tile.depth }}, STAGES = {{ tile.stages }};
    constexpr int WARPS_R = {{ tile.warps[1] }}, THREADS = 32 * {{ tile.warps[0] }} * WARPS_R;
    constexpr int WARP_L = TILE_L / {{ tile.warps[0] }}, WARP_R = TILE_R / WARPS_R, MMA_L = WARP_L / 16, MMA_R = WARP_R / 8;
    constexpr int LEFT = {{ sides[0].columns }}, RIGHT = {{ sides[1].columns }};
    constexpr int TILES_R = (RIGHT + TILE_R - 1) / TILE_R, TILES = (LEFT + TILE_L - 1) / TILE_L * TILES_R;
    // Eight elements of padding keep the rows of an ldmatrix in different banks.
    constexpr int A_PITCH = TILE_L + 8, B_PITCH = TILE_R + 8, STAGE_ELEMENTS = {{ stage_elements }};
    const int lane = tid % 32, warp = tid / 32, warp_l = warp / WARPS_R, warp_r = warp % WARPS_R;
{%- if decode %}
    {{ decode | indent }}
{%- endif %}
    const int left0 = int(block % TILES) / TILES_R * TILE_L, right0 = int(block % TILES) % TILES_R * TILE_R;
{%- include "row_sum_rows.cu" %}
    const i64 steps = begin < end ? (end - begin + TILE_K - 1) / TILE_K : 0;
    Operand* const stages = reinterpret_cast<Operand*>(smem);  // [STAGES][a, then b]: rows outermost
    float acc[MMA_L][MMA_R][4] = {};
{%- for s in sides %}
{%- if not s.direct %}
    constexpr int {{ s.upper }}_CHUNKS = TILE_K * {{ s.chunks }}, {{ s.upper }}_PER_THREAD = ({{ s.upper }}_CHUNKS + THREADS - 1) / THREADS;
    float {{ s.name }}_next[{{ s.upper }}_PER_THREAD][{{ s.vector }}];
{%- endif %}
{%- endfor %}
    // Starts whatever needs no registers on its way to the step's stage.
    auto start = [&](i64 step) {
        Operand* const a_tile = stages + int(step % STAGES) * STAGE_ELEMENTS;
        Operand* const b_tile = a_tile + TILE_K * A_PITCH;
{%- for s in sides %}
{%- if s.direct %}
        for (int chunk = tid; chunk < TILE_K * {{ s.chunks }}; chunk += THREADS) {
            const int tile_row = chunk / {{ s.chunks }}, tile_column = chunk % {{ s.chunks }} * 8, column = {{ s.first }} + tile_column;
            const i64 at = begin + step * TILE_K + tile_row, row = at{% if inner > 1 %} / {{ inner }}{% endif %};
{%- if s.inner %}
            const int inner = int(at % {{ inner }});
{%- endif %}
            const bool inside = at < end && column < {{ s.columns }};
            cp_async_16({{ s.name }}_tile + tile_row * {{ s.pitch }} + tile_column, inside ? {{ s.pointer }} + {{ s.at }} : {{ s.pointer }}, inside);
        }
{%- else %}
        (void){{ s.name }}_tile;
{%- endif %}
{%- endfor %}
    };
{%- if staged %}
    // Global memory to registers, before the products of another step hide the latency.
    auto fetch = [&](i64 step) {
{%- for s in sides %}
{%- if not s.direct %}
{%- include "row_sum_fetch.cu" %}
{%- endif %}
{%- endfor %}
    };
    // Registers to shared memory.
    auto place = [&](i64 step) {
        Operand* const a_tile = stages + int(step % STAGES) * STAGE_ELEMENTS;
        Operand* const b_tile = a_tile + TILE_K * A_PITCH;
{%- for s in sides %}
{%- if s.direct %}
        (void){{ s.name }}_tile;
{%- else %}
#pragma unroll
        for (int ti = 0; ti < {{ s.upper }}_PER_THREAD; ++ti) {
            const int chunk = tid + ti * THREADS;
            if (chunk < {{ s.upper }}_CHUNKS) store_vec({{ s.name }}_tile + chunk / {{ s.chunks }} * {{ s.pitch }} + chunk % {{ s.chunks }} * {{ s.vector }}, {{ s.name }}_next[ti]);
        }
{%- endif %}
{%- endfor %}
    };
{%- endif %}
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) {
            start(step);
{%- if staged %}
            fetch(step);
            place(step);
{%- endif %}
        }
        cp_async_commit();
    }
    for (i64 step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        const i64 ahead = step + STAGES - 1;
        if (ahead < steps) {
            start(ahead);
{%- if staged %}
            fetch(ahead);
{%- endif %}
        }
        cp_async_commit();
        const Operand* const a_tile = stages + int(step % STAGES) * STAGE_ELEMENTS;
        const Operand* const b_tile = a_tile + TILE_K * A_PITCH;
#pragma unroll
        for (int depth = 0; depth < TILE_K; depth += 16) {
            // Both tiles have rows outermost, the products rows innermost: matrices are transposed on their way.
            u32 a_regs[MMA_L][4], b_regs[MMA_R][2];
#pragma unroll
            for (int ti = 0; ti < MMA_L; ++ti)
                ldmatrix_x4_trans(a_regs[ti], a_tile + (depth + lane / 16 * 8 + lane % 8) * A_PITCH + warp_l * WARP_L + ti * 16 + lane / 8 % 2 * 8);
#pragma unroll
            for (int tj = 0; tj < MMA_R; tj += 2) {
                u32 pair[4];
                ldmatrix_x4_trans(pair, b_tile + (depth + lane % 16) * B_PITCH + warp_r * WARP_R + tj * 8 + lane / 16 * 8);
                b_regs[tj][0] = pair[0];
                b_regs[tj][1] = pair[1];
                b_regs[tj + 1][0] = pair[2];
                b_regs[tj + 1][1] = pair[3];
            }
#pragma unroll
            for (int ti = 0; ti < MMA_L; ++ti)
#pragma unroll
                for (int tj = 0; tj < MMA_R; ++tj) mma_k16<Operand>(acc[ti][tj], a_regs[ti], b_regs[tj]);
        }
{%- if staged %}
        if (ahead < steps) place(ahead);
{%- endif %}
    }
    cp_async_wait<0>();
#pragma unroll
    for (int ti = 0; ti < MMA_L; ++ti)
#pragma unroll
        for (int tj = 0; tj < MMA_R; ++tj)
#pragma unroll
            for (int nth = 0; nth < 4; ++nth) {
                const i64 left = left0 + warp_l * WARP_L + ti * 16 + lane / 4 + nth / 2 * 8;
                const i64 right = right0 + warp_r * WARP_R + tj * 8 + lane % 4 * 2 + nth % 2;
                if (left < LEFT && right < RIGHT) {
                    const float value = acc[ti][tj][nth];
                    {{ store }}
                }
            }
}
