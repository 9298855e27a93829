const i64 runs = (T + {{ rows - 1 }}) / {{ rows }};
const i64 shares = runs * {{ heads }};
const i64 share = block % shares;
{%- for axis in grid %}
const int {{ axis.name }} = (int)(block % {{ axis.size }});
block /= {{ axis.size }};
{%- endfor %}
const i64 batch = block / runs;
{%- if stored %}
// Softmax attention on the tensor cores (mma.sync m16n8k16, f32 accumulators): {{ rows }} rows{% if tile.group > 1 %} of {{ tile.group }} heads{% endif %} a block,
// {{ tile.keys }} keys and values at a time, the next ones on their way meanwhile. Weights are relative to the
// largest product of their row so far; what came before is rescaled when a larger one turns up.
typedef {{ operand }} Operand;
constexpr int ROWS = {{ rows }}, GROUP = {{ tile.group }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS, ROW_TILES = {{ tile.row_tiles }};
constexpr int WARP_ROWS = 16 * ROW_TILES, TILE_ROWS = WARP_ROWS * WARPS;    // a row of the tile: a row of the run and a head
constexpr int DEPTH = {{ depth }}, WIDTH = {{ width }}, KEYS = {{ tile.keys }}, WINDOW = {{ window }};
constexpr int K_SIZE = {{ key_size }}, V_SIZE = {{ value_size }};           // up to whole tiles of the tensor cores
constexpr int K_PITCH = K_SIZE + {{ padding }}, V_PITCH = V_SIZE + {{ padding }};     // no two rows of an ldmatrix meet in a bank
constexpr float SCALE = {{ scale }};                            // of the products, for powers of two
const int lane = tid % 32, warp = tid / 32;
Operand* const query_tile = reinterpret_cast<Operand*>(smem);   // [TILE_ROWS][K_PITCH]
Operand* const key_tiles = query_tile + TILE_ROWS * K_PITCH;    // [{{ stages }}][KEYS][K_PITCH]
Operand* const value_tiles = key_tiles + {{ stages }} * KEYS * K_PITCH; // [{{ stages }}][KEYS][V_PITCH]

// Rows that see most start first.
const i64 t_begin = (runs - 1 - block % runs) * ROWS;
const i64 t_end = t_begin + ROWS < T ? t_begin + ROWS : T;
// Rows before this run that exist, and the first row that any row of the block sees. Tiles start at
// multiples of KEYS: those of earlier rows have none of this run.
const i64 past = position < WINDOW - 1 ? position : WINDOW - 1;
const i64 first = t_begin - (WINDOW - 1) < -past ? -past : t_begin - (WINDOW - 1);
const i64 begin = first < 0 ? -((KEYS - 1 - first) / KEYS * KEYS) : first / KEYS * KEYS;
{% for side in sides %}
// {{ side.what }}, from row `from` on, into a tile; zeros where there is none.
auto bring_{{ side.name }} = [&](Operand* const {{ side.name }}_tile, const i64 from) {
    for (int chunk = tid; chunk < {{ side.rows }} * {{ side.size }} / 8; chunk += THREADS) {
        const int tile_row = chunk / ({{ side.size }} / 8), column = chunk % ({{ side.size }} / 8) * 8;
{%- if side.grouped %}
        const int elem_begin = tile_row % GROUP * {{ side.length }} + column;
        const i64 t = from + tile_row / GROUP;
{%- else %}
        const int elem_begin = column;
        const i64 t = from + tile_row;
{%- endif %}
        const bool inside = t >= {{ side.low }} && t < t_end && column < {{ side.length }};
        Operand* const target = {{ side.name }}_tile + tile_row * {{ side.pitch }} + column;
{%- if side.operand.before %}
        if (from < 0) {
            float kept[8] = {};
{%- if side.operand.runs %}
            const int elem = elem_begin;
            if (inside) load_vec(&{{ side.operand.before }}, kept);
{%- else %}
#pragma unroll
            for (int nth = 0; nth < 8; ++nth) {
                const int elem = elem_begin + nth;
                if (inside && column + nth < {{ side.length }}) kept[nth] = {{ side.operand.before }};
            }
{%- endif %}
            store_vec(target, kept);
            continue;
        }
{%- endif %}
{%- if side.operand.direct %}
        const int elem = elem_begin;
        cp_async_16(target, inside ? &{{ side.operand.now }} : {{ side.operand.pointer }}, inside);
{%- else %}
        float own[8] = {};
{%- if side.operand.runs %}
        const int elem = elem_begin;
        if (inside) load_vec(&{{ side.operand.now }}, own);
{%- else %}
#pragma unroll
        for (int nth = 0; nth < 8; ++nth) {
            const int elem = elem_begin + nth;
            if (inside && column + nth < {{ side.length }}) own[nth] = to_f32({{ side.operand.now }});
        }
{%- endif %}
        store_vec(target, own);
{%- endif %}
    }
};
{% endfor %}
bring_queries(query_tile, t_begin);
cp_async_commit();
bring_keys(key_tiles, begin);
bring_values(value_tiles, begin);
cp_async_commit();
{%- if tile.held %}
cp_async_wait<1>();
__syncthreads();
u32 query[ROW_TILES][K_SIZE / 16][4];
#pragma unroll
for (int ti = 0; ti < ROW_TILES; ++ti)
#pragma unroll
    for (int inner = 0; inner < K_SIZE / 16; ++inner) ldmatrix_x4(query[ti][inner], query_tile + (warp * WARP_ROWS + ti * 16 + lane % 16) * K_PITCH + inner * 16 + lane / 16 * 8);
{%- endif %}
float sums[ROW_TILES][V_SIZE / 8][4] = {};
float tops[ROW_TILES][2], totals[ROW_TILES][2];
#pragma unroll
for (int ti = 0; ti < ROW_TILES; ++ti)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        tops[ti][half] = -FUSEC_INF;
        totals[ti][half] = 0.0f;
    }
// Rows of the run, from t_begin on, that this warp's rows of the tile belong to.
const int warp_low = warp * WARP_ROWS / GROUP, warp_high = (warp * WARP_ROWS + WARP_ROWS - 1) / GROUP;
int turn = 0;
for (i64 from = begin; from < t_end; from += KEYS, turn ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    if (from + KEYS < t_end) {
        bring_keys(key_tiles + (turn ^ 1) * KEYS * K_PITCH, from + KEYS);
        bring_values(value_tiles + (turn ^ 1) * KEYS * V_PITCH, from + KEYS);
    }
    cp_async_commit();
    const Operand* const key_tile = key_tiles + turn * KEYS * K_PITCH;
    Operand* const value_tile = value_tiles + turn * KEYS * V_PITCH;
    // Row t_begin + n sees key `from` + kept if 0 <= ahead + n - kept < WINDOW, and kept >= kept_begin.
    const int ahead = int(t_begin - from);
    const int kept_begin = first > from ? int(first - from) : 0;
    auto sees = [&](int n, int kept) { return ahead + n >= kept && ahead + n - kept < WINDOW && kept >= kept_begin; };
    // Whether all of these rows see all keys of the tile, and whether some see some.
    auto all_see = [&](int low, int high) { return ahead + low >= KEYS - 1 && ahead + high < WINDOW && kept_begin == 0; };
    const bool useful = t_begin + warp_low < t_end && ahead + warp_high >= 0 && ahead + warp_low - (KEYS - 1) < WINDOW;
    float weights[ROW_TILES][KEYS / 8][4] = {};
    if (useful) {
#pragma unroll
        for (int inner = 0; inner < K_SIZE / 16; ++inner) {
{%- if not tile.held %}
            u32 query[ROW_TILES][4];
#pragma unroll
            for (int ti = 0; ti < ROW_TILES; ++ti) ldmatrix_x4(query[ti], query_tile + (warp * WARP_ROWS + ti * 16 + lane % 16) * K_PITCH + inner * 16 + lane / 16 * 8);
{%- endif %}
#pragma unroll
            for (int tj = 0; tj < KEYS / 8; tj += 2) {
                u32 pair[4];
                ldmatrix_x4(pair, key_tile + (tj * 8 + lane % 8 + lane / 16 * 8) * K_PITCH + inner * 16 + lane / 8 % 2 * 8);
                const u32 left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
#pragma unroll
                for (int ti = 0; ti < ROW_TILES; ++ti) {
                    mma_k16<Operand>(weights[ti][tj], query[ti]{% if tile.held %}[inner]{% endif %}, left);
                    mma_k16<Operand>(weights[ti][tj + 1], query[ti]{% if tile.held %}[inner]{% endif %}, right);
                }
            }
        }
        const bool all = all_see(warp_low, warp_high);
#pragma unroll
        for (int ti = 0; ti < ROW_TILES; ++ti) {
            const int tile_row = warp * WARP_ROWS + ti * 16 + lane / 4;
            float top[2] = {tops[ti][0], tops[ti][1]};
#pragma unroll
            for (int tj = 0; tj < KEYS / 8; ++tj)
#pragma unroll
                for (int nth = 0; nth < 4; ++nth) {
                    float x = weights[ti][tj][nth] * SCALE;
                    if (!all && !sees((tile_row + nth / 2 * 8) / GROUP, tj * 8 + lane % 4 * 2 + nth % 2)) x = -FUSEC_INF;
                    weights[ti][tj][nth] = x;
                    top[nth / 2] = fmax_number(top[nth / 2], x);
                }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                top[half] = lane_max<4>(top[half]);
                // Of a row that has seen nothing yet, nothing is subtracted.
                const float base = top[half] == -FUSEC_INF ? 0.0f : top[half];
                const float factor = fexp2_approx(tops[ti][half] - base);
                tops[ti][half] = top[half];
                float total = 0.0f;
#pragma unroll
                for (int tj = 0; tj < KEYS / 8; ++tj)
#pragma unroll
                    for (int nth = 2 * half; nth < 2 * half + 2; ++nth) {
                        weights[ti][tj][nth] = fexp2_approx(weights[ti][tj][nth] - base);
                        total += weights[ti][tj][nth];
                    }
                totals[ti][half] = totals[ti][half] * factor + total;
#pragma unroll
                for (int tj = 0; tj < V_SIZE / 8; ++tj)
#pragma unroll
                    for (int nth = 2 * half; nth < 2 * half + 2; ++nth) sums[ti][tj][nth] *= factor;
            }
        }
    }
    if (!all_see(0, ROWS - 1)) {
        // A weight of 0 times what is not finite is not 0: what a later row holds must not matter, not even a
        // NaN. Such values are added here to the rows that see them, and are zeros for the products.
        bool strange = false;
        for (int chunk = tid; chunk < KEYS * V_SIZE / 8; chunk += THREADS) {
            float run[8];
            load_vec(value_tile + chunk / (V_SIZE / 8) * V_PITCH + chunk % (V_SIZE / 8) * 8, run);
#pragma unroll
            for (int nth = 0; nth < 8; ++nth) strange |= !(run[nth] - run[nth] == 0.0f);
        }
        if (__syncthreads_or(strange)) {
#pragma unroll 1
            for (int kept = 0; kept < KEYS; ++kept)
#pragma unroll
                for (int ti = 0; ti < ROW_TILES; ++ti)
#pragma unroll
                    for (int tj = 0; tj < V_SIZE / 8; ++tj)
#pragma unroll
                        for (int nth = 0; nth < 4; ++nth) {
                            const int tile_row = warp * WARP_ROWS + ti * 16 + lane / 4 + nth / 2 * 8;
                            const float x = to_f32(value_tile[kept * V_PITCH + tj * 8 + lane % 4 * 2 + nth % 2]);
                            if (!(x - x == 0.0f) && sees(tile_row / GROUP, kept)) sums[ti][tj][nth] += x;
                        }
            __syncthreads();
            for (int chunk = tid; chunk < KEYS * V_SIZE / 8; chunk += THREADS) {
                float run[8];
                Operand* const at = value_tile + chunk / (V_SIZE / 8) * V_PITCH + chunk % (V_SIZE / 8) * 8;
                load_vec(at, run);
#pragma unroll
                for (int nth = 0; nth < 8; ++nth) run[nth] = run[nth] - run[nth] == 0.0f ? run[nth] : 0.0f;
                store_vec(at, run);
            }
            __syncthreads();
        }
    }
    if (useful) {
#pragma unroll
        for (int inner = 0; inner < KEYS / 16; ++inner) {
            u32 words[ROW_TILES][4];
#pragma unroll
            for (int ti = 0; ti < ROW_TILES; ++ti)
#pragma unroll
                for (int word = 0; word < 4; ++word) words[ti][word] = pack_x2<Operand>(weights[ti][inner * 2 + word / 2][word % 2 * 2], weights[ti][inner * 2 + word / 2][word % 2 * 2 + 1]);
#pragma unroll
            for (int tj = 0; tj < V_SIZE / 8; tj += 2) {
                u32 pair[4];
                ldmatrix_x4_trans(pair, value_tile + (inner * 16 + lane % 16) * V_PITCH + tj * 8 + lane / 16 * 8);
                const u32 left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
#pragma unroll
                for (int ti = 0; ti < ROW_TILES; ++ti) {
                    mma_k16<Operand>(sums[ti][tj], words[ti], left);
                    mma_k16<Operand>(sums[ti][tj + 1], words[ti], right);
                }
            }
        }
    }
}
cp_async_wait<0>();
#pragma unroll
for (int ti = 0; ti < ROW_TILES; ++ti)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float inverse = frecip(lane_sum<4>(totals[ti][half]));
        const int tile_row = warp * WARP_ROWS + ti * 16 + half * 8 + lane / 4;
        const i64 t = t_begin + tile_row / GROUP;
        if (t < t_end) {
#pragma unroll
            for (int tj = 0; tj < V_SIZE / 8; ++tj) {
                const int column = tj * 8 + lane % 4 * 2;
                const float pair[2] = {sums[ti][tj][2 * half] * inverse, sums[ti][tj][2 * half + 1] * inverse};
{%- if pairs %}
                const int elem = {% if tile.group > 1 %}tile_row % GROUP * WIDTH + {% endif %}column;
                if (column < WIDTH) store_vec(&{{ result }}, pair);
{%- else %}
#pragma unroll
                for (int nth = 0; nth < 2; ++nth) {
                    const int elem = {% if tile.group > 1 %}tile_row % GROUP * WIDTH + {% endif %}column + nth;
                    if (column + nth < WIDTH) {{ result }} = from_f32<{{ element }}>(pair[nth]);
                }
{%- endif %}
            }
        }
    }
{%- endif %}
{%- include "attend_tails.cu" %}
