{%- set p = products[0] -%}
{
    // y[row, column] = sum over inner of a(row, inner) * w(inner, column) for one row a block, staged in shared memory as f32. Rows
    // of the weights whose activation is zero are not read.
    //
    // The places of all other activations are listed in their order. LANES_N lanes side by side have VEC columns each of a row of
    // the weights; a block has STEP of the listed rows at a time, and each lane copies what it multiplies itself to
    // shared memory, IN_FLIGHT rows ahead.
    constexpr int TILE_M = 1, TILE_N = {{ tile.columns }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS, IN_FLIGHT = {{ tile.in_flight }};
    constexpr int DEPTH = {{ p.depth }}, VEC = {{ p.w_vector }}, LANES_N = TILE_N / VEC, STEP = THREADS / LANES_N;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 rows = {{ rows }};
    const i64 row0 = i64({{ block }} / COLUMN_TILES);
    const int column0 = int({{ block }} % COLUMN_TILES) * TILE_N;
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{%- if early %}
    grid_dependency_wait();
    grid_dependency_launch();
{%- endif %}
{% include "gemv_rows.cu" %}
    __syncthreads();
    u16* const list = reinterpret_cast<u16*>(reinterpret_cast<float*>(smem) + {{ tile.list }});       // [DEPTH]
    int* const counts = reinterpret_cast<int*>(reinterpret_cast<float*>(smem) + {{ tile.counts }});   // [WARPS]
    // Each warp looks at a stretch of the row: first how many it will list, then, knowing those before it, which.
    constexpr int STRETCH = (DEPTH + THREADS - 1) / THREADS * 32;
    auto is_listed = [&](int at) {
        const int inner = warp * STRETCH + at + lane;
        return at + lane < STRETCH && inner < DEPTH && a_{{ p.name }}[inner] != 0.0f;
    };
    {
        int found = 0;
#pragma unroll 4
        for (int at = 0; at < STRETCH; at += 32) found += count_bits(lanes_where(is_listed(at)));
        if (lane == 0) counts[warp] = found;
    }
    __syncthreads();
    int all = 0, first = 0;
#pragma unroll
    for (int other = 0; other < WARPS; ++other) {
        if (other == warp) first = all;
        all += counts[other];
    }
#pragma unroll 4
    for (int at = 0; at < STRETCH; at += 32) {
        const bool listed = is_listed(at);
        const u32 which = lanes_where(listed);
        if (listed) list[first + count_bits(which & ((1u << lane) - 1u))] = u16(warp * STRETCH + at + lane);
        first += count_bits(which);
    }
    __syncthreads();
    {
        {{ p.w_type }}* const ring = reinterpret_cast<{{ p.w_type }}*>(reinterpret_cast<char*>(smem) + {{ p.ring_offset }}) + tid * VEC;  // [IN_FLIGHT][THREADS][VEC]
        const int column = column0 + tid % LANES_N * VEC;
        // Columns past the end read the last ones again; nothing of them is kept.
        const {{ p.w_type }}* const from = {{ p.w }} + min(column, COLUMNS - VEC);
        auto fetch = [&](int slot, int entry) {
            if (entry < all) cp_async_16(ring + slot * THREADS * VEC, from + i64(list[entry]) * {{ p.w_stride }}, true);
            cp_async_commit();
        };
        int entry = tid / LANES_N, slot = 0;
#pragma unroll
        for (int ahead = 0; ahead < IN_FLIGHT; ++ahead) fetch(ahead, entry + ahead * STEP);
        float acc[VEC] = {};
        for (; entry < all; entry += STEP) {
            cp_async_wait<IN_FLIGHT - 1>();
            float w_regs[VEC];
            load_vec(ring + slot * THREADS * VEC, w_regs);
            fetch(slot, entry + IN_FLIGHT * STEP);
            slot = slot + 1 == IN_FLIGHT ? 0 : slot + 1;
            const float activation = a_{{ p.name }}[list[entry]];
#pragma unroll
            for (int nth = 0; nth < VEC; ++nth) acc[nth] += activation * w_regs[nth];
        }
#pragma unroll
        for (int nth = 0; nth < VEC; ++nth) {
            const float sum = lane_sum_strided<LANES_N>(acc[nth]);
            if (lane < LANES_N) sums_{{ p.name }}[warp * TILE_N + lane * VEC + nth] = sum;
        }
    }
    __syncthreads();
    for (int element = tid; element < TILE_N; element += THREADS) {
        const i64 row = row0;
        const int column = column0 + element;
        if (row < rows && column < COLUMNS) {
            float {{ p.name }} = sums_{{ p.name }}[element];
#pragma unroll
            for (int part = 1; part < {{ p.parts }}; ++part) {{ p.name }} += sums_{{ p.name }}[part * TILE_N + element];
{%- if row_prologue %}
            {{ row_prologue | indent(width=12) }}
{%- endif %}
            // ---- epilogue of element (row, column)
            {{ epilogue | indent(width=12) }}
            // ---- end of epilogue
        }
    }
}
