{
    // y[row, column] = sum over inner of a(row, inner) * w(column, inner) for few rows on tensor cores, {{ tile.rows }} of them a block.
    //
    // The weights of the block's columns are one stream: step after step of STEP terms of GROUP columns, through the sums{% if products | length > 1 %} of a product
    // and from one product to the next{% endif %}.
    // The warps take equal stretches of it, so that sums may be shared by warps that follow each other.
    // Which terms a lane holds is the same for weights and activations, so it need not be the order of the instruction: a lane reads
    // pieces of 16 bytes, beside those of its neighbours. It copies weights to shared memory itself, IN_FLIGHT steps ahead; the first
    // are on their way while {% if early %}the kernel before this one ends{% else %}the rows are computed{% endif %}.
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS, IN_FLIGHT = {{ tile.in_flight }};
    constexpr int GROUP = {{ tile.together }}, PIECES = {{ tile.pieces }}, PIECE = 32, STEP = PIECES * PIECE;
    constexpr int DEPTH = {{ products[0].depth }}, STEPS = (DEPTH + STEP - 1) / STEP;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 rows = {{ rows }};
    const i64 row0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int column0 = int({{ block }} % COLUMN_TILES) * TILE_N;
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
    const int fragment_row = lane / 4, fragment_inner = lane % 4 * 8;
    const int groups = (min(TILE_N, COLUMNS - column0) + GROUP - 1) / GROUP;
    const int all = {% if products | length > 1 %}{{ products | length }} * {% endif %}groups * STEPS, stretch = (all + WARPS - 1) / WARPS;
    const int first = min(warp * stretch, all), last = min(first + stretch, all);
    {{ tile.operand }}* const ring = reinterpret_cast<{{ tile.operand }}*>(reinterpret_cast<char*>(smem) + {{ products[0].ring_offset }}) + tid * 8;  // [IN_FLIGHT][PIECES][THREADS][8]
    // Where the lane's terms of a group begin.
    auto weights = [&]({% if products | length > 1 %}int product, {% endif %}int group) {
        // Columns past the end read the last one again; nothing of them is kept.
        const int column = min(column0 + group * GROUP + fragment_row, COLUMNS - 1);
{%- for p in products %}
{%- if loop.last %}
        return {{ p.w }} + i64(column) * {{ p.w_stride }} + fragment_inner;
{%- else %}
        if (product == {{ loop.index0 }}) return {{ p.w }} + i64(column) * {{ p.w_stride }} + fragment_inner;
{%- endif %}
{%- endfor %}
    };
    int ahead = first, ahead_step = first % STEPS, ahead_group = first / STEPS{% if products | length > 1 %} % groups, ahead_product = first / (STEPS * groups){% endif %};
    const {{ tile.operand }}* from = weights({% if products | length > 1 %}ahead_product, {% endif %}ahead_group);
    auto fetch = [&](int slot) {
        if (ahead < last) {
            const int inner = ahead_step * STEP;
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece)
                cp_async_16(ring + (slot * PIECES + piece) * THREADS * 8, from + inner + piece * PIECE, DEPTH % STEP == 0 || inner + piece * PIECE + fragment_inner < DEPTH);
            ++ahead;
            if (++ahead_step == STEPS) {
                ahead_step = 0;
{%- if products | length > 1 %}
                if (++ahead_group == groups) {
                    ahead_group = 0;
                    ++ahead_product;
                }
                from = weights(ahead_product, ahead_group);
{%- else %}
                from = weights(++ahead_group);
{%- endif %}
            }
        }
        cp_async_commit();
    };
#pragma unroll
    for (int slot = 0; slot < IN_FLIGHT; ++slot) fetch(slot);
{%- if early %}
    grid_dependency_wait();
{%- endif %}
{% for p in products %}
{%- include "thin_rows.cu" -%}
{% endfor %}
    float* const sums = reinterpret_cast<float*>(smem) + {{ products[0].sums_offset }};      // [WARPS][SLOTS][TILE_M][GROUP]: a warp's sums, in its order
    constexpr int SLOTS = {{ tile.slots }}, SLOT = TILE_M * GROUP;
{%- if staged %}
    __syncthreads();
{%- endif %}
    {
        // Where the lane's terms of its row begin.
        auto at_rows = [&]({% if not same_rows %}int product{% endif %}) {
{%- for p in products %}
{%- if loop.last or same_rows %}
{%- if loop.first or not same_rows %}
            return {% if p.direct %}{{ p.x }} + (row0 + fragment_row) * {{ p.x_stride }}{% else %}a_{{ p.name }} + fragment_row * {{ p.pitch }}{% endif %} + fragment_inner;
{%- endif %}
{%- else %}
            if (product == {{ loop.index0 }}) return {% if p.direct %}{{ p.x }} + (row0 + fragment_row) * {{ p.x_stride }}{% else %}a_{{ p.name }} + fragment_row * {{ p.pitch }}{% endif %} + fragment_inner;
{%- endif %}
{%- endfor %}
        };
        // Half of the instruction's rows are none.
        const bool there = fragment_row < TILE_M{% if products[0].direct %} && row0 + fragment_row < rows{% endif %};
        float acc[4] = {};
        int slot = 0, step = first % STEPS{% if not same_rows %}, group = first / STEPS % groups, product = first / (STEPS * groups){% endif %};
        float* own = sums + warp * (SLOTS * SLOT);
        const {{ tile.operand }}* a_row = at_rows({% if not same_rows %}product{% endif %});
        for (int at = first; at < last; ++at) {
            const int inner = step * STEP;
            u32 a_words[PIECES][4];
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece) {
                a_words[piece][0] = a_words[piece][1] = a_words[piece][2] = a_words[piece][3] = 0;
                if (there{% if products[0].direct %} && (DEPTH % STEP == 0 || inner + piece * PIECE + fragment_inner < DEPTH){% endif %}) load_words(a_row + inner + piece * PIECE, a_words[piece]);
            }
            cp_async_wait<IN_FLIGHT - 1>();
            u32 w_words[PIECES][4];
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece) load_words(ring + (slot * PIECES + piece) * THREADS * 8, w_words[piece]);
            fetch(slot);
{%- if early %}
            // All copies are under way: the next kernel's may follow them.
            if (ahead >= last) grid_dependency_launch();
{%- endif %}
            slot = slot + 1 == IN_FLIGHT ? 0 : slot + 1;
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece)
#pragma unroll
                for (int nth = 0; nth < 4; nth += 2) {
                    const u32 a_part[4] = {a_words[piece][nth], 0, a_words[piece][nth + 1], 0};
                    const u32 w_part[2] = {w_words[piece][nth], w_words[piece][nth + 1]};
                    mma_k16<{{ tile.operand }}>(acc, a_part, w_part);
                }
            if (++step < STEPS && at + 1 < last) continue;
            // The sums end here, or the warp after this one goes on with them.
#pragma unroll
            for (int nth = 0; nth < 2; ++nth) {
                if (fragment_row < TILE_M) own[fragment_row * GROUP + lane % 4 * 2 + nth] = acc[nth];
                acc[nth] = 0.0f;
            }
            own += SLOT;
            step = 0;
{%- if not same_rows %}
            if (++group == groups) {
                group = 0;
                a_row = at_rows(++product);
            }
{%- endif %}
        }
    }
    __syncthreads();
    for (int element = tid; element < TILE_M * TILE_N; element += THREADS) {
        const int tile_row = element / TILE_N, tile_column = element % TILE_N;
        const i64 row = row0 + tile_row;
        const int column = column0 + tile_column;
        if (row < rows && column < COLUMNS) {
{%- for p in products %}
            float {{ p.name }} = 0.0f;
            {
                const int group = {% if not loop.first %}{{ loop.index0 }} * groups + {% endif %}tile_column / GROUP;
                for (int part = group * STEPS / stretch; part <= (group * STEPS + STEPS - 1) / stretch; ++part)
                    {{ p.name }} += sums[(part * SLOTS + group - part * stretch / STEPS) * SLOT + tile_row * GROUP + tile_column % GROUP];
            }
{%- endfor %}
{%- if row_prologue %}
            {{ row_prologue | indent(width=12) }}
{%- endif %}
            // ---- epilogue of element (row, column)
            {{ epilogue | indent(width=12) }}
            // ---- end of epilogue
        }
    }
}
