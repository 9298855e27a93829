// Compiled behind one kernel source, with FUSEC_KERNEL naming its kernel: the functions that the Rust side
// calls, in a table.

namespace emulator {

extern "C" void emulator_fiber() {
    for (;;) {
        Worker* w = W;
        Thread* t = w->cur;
        invoke(&FUSEC_KERNEL, w->launch->args);
        end_thread(w, t);
        // Nobody waits for what is under way when the last one ends.
        Thread* next = w->ended == w->threads ? pop(w) : next_ready(w);
        if (!next) {
            if (w->ended != w->threads) deadlock(w);
            void* dead;
            emulator_switch(&dead, w->main_sp);
            __builtin_unreachable();
        }
        if (next->state == NOT_STARTED) {
            // The common case of a kernel without barriers: the next thread takes over this stack.
            next->stack = t->stack;
            next->state = RUNNABLE;
            w->cur = next;
            continue;
        }
        w->stacks[w->free_stacks++] = u16(t->stack);
        switch_to(w, &t->sp, next);
    }
}

static void begin_block(Worker* w, Launch* launch) {
    u32 n = launch->block[0] * launch->block[1] * launch->block[2];
    w->launch = launch;
    launch->grid_barriers = 0;
    w->grid_dim = {launch->grid[0], launch->grid[1], launch->grid[2]};
    w->block_dim = {launch->block[0], launch->block[1], launch->block[2]};
    w->block_idx = {launch->index[0], launch->index[1], launch->index[2]};
    w->threads = n;
    w->ended = w->arrived = w->first_ended = 0;
    w->failed = false;
    w->tensor_copies = 0;
    memset(w->announced_to, 0, sizeof w->announced_to);
    w->ready_head = w->ready_count = 0;
    memset(w->warp_arrived, 0, sizeof w->warp_arrived);
    memset(w->warp_ended, 0, sizeof w->warp_ended);
    memset(w->warp_pending, 0, sizeof w->warp_pending);
    w->random = launch->seed * 0xd1342543de82ef95ull ^ (u64(launch->index[2]) << 42) ^ (u64(launch->index[1]) << 21) ^ launch->index[0];
    u64 mode = launch->seed ? next_random(w) : 0;
    w->run_ahead = (mode & 1) == 0;
    for (u32 i = 0; i < n; ++i) w->order[i] = u16((mode & 6) == 2 ? n - 1 - i : i);
    if (mode & 4)
        for (u32 i = n - 1; i > 0; --i) {
            u32 j = u32(next_random(w) >> 32) % (i + 1);
            u16 swap = w->order[i];
            w->order[i] = w->order[j];
            w->order[j] = swap;
        }
    u32 index = 0;
    for (u32 z = 0; z < launch->block[2]; ++z)
        for (u32 y = 0; y < launch->block[1]; ++y)
            for (u32 x = 0; x < launch->block[0]; ++x, ++index) {
                Thread& t = w->thread[index];
                t.tid = {x, y, z};
                t.index = index;
                t.state = NOT_STARTED;
                t.line = 0;
                t.copies = t.groups = t.products = t.product_groups = t.held = 0;
            }
    w->free_stacks = n;
    for (u32 i = 0; i < n; ++i) w->stacks[i] = u16(n - 1 - i);
    for (u32 i = 0; i < n; ++i) push_back(w, w->order[i]);
    memset(launch->smem, 0xff, launch->smem_bytes);
    memset(launch->smem + launch->smem_bytes, 0xfe, SMEM_GUARD);
}

}  // namespace emulator

namespace emulator {

extern "C" {

static const char* kernel_signature() { return signature(&FUSEC_KERNEL); }

// Runs the block launch->index. 0: done; 1: launch->error says why not.
static int run_block(Launch* launch) {
    Worker* w = reinterpret_cast<Worker*>(launch->arena);
    W = w;
    begin_block(w, launch);
    switch_to(w, &w->main_sp, pop(w));
    if (w->failed) return 1;
    if (w->tensor_copies) {
        snprintf(launch->error, launch->error_bytes, "block (%u,%u,%u) ended before %u of its copies had landed",
                 w->block_idx.x, w->block_idx.y, w->block_idx.z, w->tensor_copies);
        return 1;
    }
    for (u32 i = 0; i < SMEM_GUARD; ++i)
        if (u8(launch->smem[launch->smem_bytes + i]) != 0xfe) {
            snprintf(launch->error, launch->error_bytes, "block (%u,%u,%u) wrote %u bytes behind its %u bytes of dynamic shared memory",
                     w->block_idx.x, w->block_idx.y, w->block_idx.z, i, launch->smem_bytes);
            return 1;
        }
    return 0;
}

}  // extern "C"

struct Table {
    const char* (*signature)();
    int (*run_block)(Launch*);
};

}  // namespace emulator

// All that the object exports.
extern "C" __attribute__((visibility("default"))) const emulator::Table emulator_table;
const emulator::Table emulator_table = {emulator::kernel_signature, emulator::run_block};
