// {{ model }}: its kernels, loaded and launched with nothing but the driver of CUDA.
//
// Written by fusec {{ version }} for {{ arch }}, {{ storage }} storage: {{ kernels | length }} kernels, {{ launches }}.
//
//     g++ -std=c++17 -O2 {{ file }}.cpp -o {{ file }} -ldl
//     ./{{ file }} --help
//
// Built without any header or library of CUDA: the cubins below kernels/ become part of the program, and
// libcuda.so.1, which comes with the driver, is opened when it runs. Weights are read from weights.safetensors,
// in the types and shapes of `CONSTANTS` below.
//
// In a program of your own: compile this file with -DFUSEC_NO_MAIN, or include it after that definition. A
// `Model` holds weights and kernels, a `State` what B sequences carry from one run to the next:
//
//     {{ space }}::Model model(0, "weights.safetensors");
//     {{ space }}::State state = model.state(B);
//     model.run(stream, state, T, inputs, outputs);      // addresses of the device; nothing is waited for
//
// In this order: the driver, what was compiled, memory, the model, its launches, files of tensors, the program.

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <map>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Where the assembler finds the cubins.
#ifndef FUSEC_KERNELS
#define FUSEC_KERNELS "kernels/"
#endif

// A cubin as bytes of this program.
#define FUSEC_CUBIN(NAME, FILE)                                                                             \
    extern "C" __attribute__((visibility("hidden"))) const unsigned char NAME[];                            \
    __asm__(".section .rodata\n.globl " #NAME "\n.hidden " #NAME "\n.balign 64\n" #NAME ":\n.incbin \""     \
            FUSEC_KERNELS FILE "\"\n.previous\n")

{% for image in images -%}
FUSEC_CUBIN({{ symbol }}_{{ image.name }}, "{{ image.name }}.{{ arch }}.cubin");
{% endfor %}
namespace {{ space }} {

// An error with what went wrong, where and why, in words.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    char text[1024];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    throw Error(text);
}

{% include "standalone_driver.cpp" %}
// ---------------------------------------------------------------------------------------------------------
// What was compiled: kernels, constants, states, inputs and outputs.
// ---------------------------------------------------------------------------------------------------------

// Types of elements in memory. States are f32, whatever activations and matrices are.
enum class Type { f32, bf16, f16, i32 };
inline std::size_t bytes_of(Type type) { return type == Type::f32 || type == Type::i32 ? 4 : 2; }

// How many rows a tensor has.
enum class Rows {
    once,       // one, whatever the run
    sequences,  // B
    tokens,     // B * T
    runs,       // B * ceil(T / run)
};

struct Kernel {
    const char* name;  // of its source, NAME.cu
    const char* entry;
    const unsigned char* cubin;
    unsigned threads;       // of a block
    unsigned shared_bytes;  // of a block, dynamic
};
struct Kernels {
    enum : unsigned {
{% for kernel in kernels %}        {{ kernel.id }},
{% endfor %}    };
};
static const Kernel KERNELS[] = {
{% for kernel in kernels %}    {"{{ kernel.name }}", "{{ kernel.entry }}", {{ symbol }}_{{ kernel.image }}, {{ kernel.threads }}, {{ kernel.shared_bytes }}},
{% endfor %}};

// A tensor of weights.safetensors: parameters, and what follows from them alone.
struct Constant {
    const char* name;
    Type type;
    std::vector<std::uint64_t> shape;
};
static const std::vector<Constant> CONSTANTS = {
{% for constant in constants %}    {"{{ constant.name }}", Type::{{ constant.element }}, {{ constant.shape }}},
{% endfor %}};

// What a sequence carries from one run to the next.
struct Carried {
    const char* name;
    Type type;
    std::vector<std::uint64_t> shape;  // of one sequence
    float initial;                     // before the first token
    // The last rows of a value, read in one place and written in another, exchanged after each run.
    bool is_tail;
};
static const std::vector<Carried> CARRIED = {
{% for state in states %}    {"{{ state.name }}", Type::{{ state.element }}, {{ state.shape }}, {{ state.initial }}, {{ state.is_tail }}},
{% endfor %}};

// An input or output, [B, T, axes...]: or [B, 1, axes...] where there is one row for each sequence.
struct Port {
    const char* name;
    Type type;
    std::vector<std::uint64_t> shape;  // of a row
    Rows rows;
    std::int64_t ids;  // token ids from 0 to below this; 0: numbers
};
static const std::vector<Port> INPUTS = {
{% for port in inputs %}    {"{{ port.name }}", Type::{{ port.element }}, {{ port.shape }}, Rows::{{ port.rows }}, {{ port.ids }}},
{% endfor %}};
static const std::vector<Port> OUTPUTS = {
{% for port in outputs %}    {"{{ port.name }}", Type::{{ port.element }}, {{ port.shape }}, Rows::{{ port.rows }}, {{ port.ids }}},
{% endfor %}};

// Where the inputs of a run lie: on the device, row-major, at multiples of 16. Token ids are trusted.
struct Inputs {
{% for port in inputs %}    Address {{ port.id }} = 0;  // {{ port.words }}
{% endfor %}};
// Where its outputs go, likewise.
struct Outputs {
{% for port in outputs %}    Address {{ port.id }} = 0;  // {{ port.words }}
{% endfor %}};

// A piece of memory that kernels read or write.
struct Buffer {
    enum What { input, constant, carried, scratch, output } what;
    unsigned index;  // among INPUTS, CONSTANTS, CARRIED or OUTPUTS
    Type type;
    std::uint64_t elements;  // of a row
    Rows rows;
    std::int64_t run;  // tokens of each of Rows::runs
    int first, last;   // of scratch: the launches between which it is in use
};

// What it takes to run some lengths.
struct Regime {
    const char* name;
    std::int64_t min_time, max_time;  // tokens of a run
    const Buffer* buffers;
    unsigned buffer_count;
};

{% for regime in regimes -%}
// Buffers of {{ regime.name }}, for {{ regime.lengths }}.
struct {{ regime.class }} {
    enum : unsigned {
{% for buffer in regime.buffers %}        {{ buffer.id }},
{% endfor %}    };
};
static const Buffer {{ regime.table }}[] = {
{% for buffer in regime.buffers %}    {Buffer::{{ buffer.what }}, {{ buffer.index }}, Type::{{ buffer.element }}, {{ buffer.elements }}, Rows::{{ buffer.rows }}, {{ buffer.run }}, {{ buffer.first }}, {{ buffer.last }}},  // {{ buffer.name }}
{% endfor %}};

{% endfor -%}
static const Regime REGIMES[] = {
{% for regime in regimes %}    {"{{ regime.name }}", {{ regime.min_time }}, {{ regime.max_time }}, {{ regime.table }}, {{ regime.buffers | length }}},
{% endfor %}};

{% include "standalone_memory.cpp" %}
// ---------------------------------------------------------------------------------------------------------
// The model
// ---------------------------------------------------------------------------------------------------------

class Model;

// What B sequences carry from one run to the next, and memory that their runs need. Made by `Model::state`.
class State {
  public:
    std::int64_t batch() const { return sequences; }
    std::int64_t position() const { return tokens; }  // of the next token

  private:
    friend class Model;
    std::int64_t sequences = 0, tokens = 0;
    // Which copy of each tail is read: 0 or 1.
    int parity = 0;
    std::string broken;
    Memory memory, scratch;
    std::vector<Address> copies[2];
    std::vector<Layout> layouts;
};

// An argument of a kernel.
struct Arg {
    TensorMap value;
    Arg(std::uint64_t word) { std::memcpy(value.bytes, &word, 8); }
    Arg(std::int64_t word) { std::memcpy(value.bytes, &word, 8); }
    Arg(const TensorMap& map) : value(map) {}
};

// How a kernel is launched.
enum Launch : unsigned {
    PLAIN = 0,
    RESIDENT = 1,  // its blocks wait for each other: all have to be on the device at once
    SHARED = 2,    // any number of blocks does the work: as many as the device holds
    EARLY = 4,     // may start while the launch before it still runs, and waits for it by itself
};

// A run that is being submitted.
struct Run {
    std::int64_t batch, time, position;
    Stream stream;
    std::vector<Address> read, written;  // by buffer; they differ for tails

    Address operator[](unsigned buffer) const { return read[buffer]; }
    // Rows of T in runs of so many, tokens of all sequences in tiles of so many.
    std::int64_t runs(std::int64_t of) const { return batch * runs_of(time, of); }
    std::int64_t tiles(std::int64_t of) const { return runs_of(rows(), of); }
    std::int64_t rows() const { return batch * time; }
    // The same for one row of each sequence.
    Run of_one_row() const {
        Run run = *this;
        run.time = 1;
        return run;
    }
};

// An axis of a tensor that boxes are copied of, innermost first: length, elements to the next place, extent of a box.
struct MapAxis {
    std::int64_t extent, stride, span;
};

// Weights and kernels on a device. Any number of states may be run; one run at a time, since blocks of kernels
// that wait for each other count in a word of the kernel.
class Model {
  public:
    // Loads kernels and weights to a GPU, in its primary context, which the runtime of CUDA uses as well.
    explicit Model(int number = 0, const std::string& weights = "weights.safetensors") {
        const Driver& d = driver();
        int version = 0, count = 0;
        d.check(d.init(0), "initialise the driver");
        d.check(d.version(&version), "ask for the driver's version");
        if (version < 12000)
            fail("the driver is for CUDA %d.%d: at least 12.0 is needed", version / 1000, version % 1000 / 10);
        d.check(d.device_count(&count), "count devices");
        if (number < 0 || number >= count) fail("no device %d: the driver sees %d", number, count);
        d.check(d.device(&device, number), "open device %d", number);
        d.check(d.device_name(name_of_device, sizeof name_of_device, device), "ask for a name");
        const int major = attribute(75), minor = attribute(76);
        if ({{ wrong_device }})
            fail("these kernels are for {{ arch }}, device %d (%s) is of compute capability %d.%d: "
                 "fusec compile --arch says for which", number, name_of_device, major, minor);
        d.check(d.retain_context(&context, device), "use device %d (%s)", number, name_of_device);
        try {
            load();
            upload(weights);
        } catch (...) {
            unload();
            throw;
        }
    }
    ~Model() { unload(); }
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    const char* device_name() const { return name_of_device; }
    void* device_context() const { return context; }

    // B sequences before their first token.
    State state(std::int64_t batch, Stream stream = nullptr) const {
        if (batch < 1) fail("a state of %lld sequences: at least 1 is needed", static_cast<long long>(batch));
        State state;
        state.sequences = batch;
        std::vector<std::uint64_t> offsets[2];
        std::uint64_t bytes = 0;
        for (const Carried& carried : CARRIED) {
            const auto rows = static_cast<std::uint64_t>(batch);
            const std::uint64_t size = aligned(bytes_of(carried.type, product(carried.shape), rows, carried.name));
            offsets[0].push_back(bytes);
            offsets[1].push_back(carried.is_tail ? bytes + size : bytes);
            bytes += carried.is_tail ? 2 * size : size;
        }
        state.memory = Memory(context, bytes, "states");
        for (int copy = 0; copy < 2; ++copy)
            for (const std::uint64_t offset : offsets[copy])
                state.copies[copy].push_back(state.memory.address() + offset);
        state.layouts.resize(sizeof REGIMES / sizeof *REGIMES);
        reset(state, stream);
        return state;
    }

    // Forgets what the sequences have seen.
    void reset(State& state, Stream stream = nullptr) const {
        const Driver& d = driver();
        const Current current(context);
        state.parity = 0;
        state.tokens = 0;
        for (std::size_t i = 0; i < CARRIED.size(); ++i) {
            const Carried& carried = CARRIED[i];
            const std::size_t elements = product(carried.shape) * static_cast<std::uint64_t>(state.sequences);
            const Address at = state.copies[0][i];
            const float initial = carried.initial;
            const int status = carried.type == Type::f32    ? d.fill_32(at, bits_of(initial), elements, stream)
                               : carried.type == Type::i32  ? d.fill_32(at, 0, elements, stream)
                               : carried.type == Type::bf16 ? d.fill_16(at, to_bf16(initial), elements, stream)
                                                            : d.fill_16(at, to_f16(initial), elements, stream);
            d.check(status, "fill the state `%s`", carried.name);
        }
        state.broken.clear();
    }

    // Submits a run of `time` tokens of every sequence, which go on where the last run ended, and waits for
    // nothing. Memory is allocated when a run is longer than those before it: call once before a stream is recorded.
    void run(Stream stream, State& state, std::int64_t time, const Inputs& inputs, const Outputs& outputs) const {
        if (!state.broken.empty())
            fail("the state is unknown since a run failed (%s): reset it", state.broken.c_str());
        std::int64_t rows = 0, end = 0;
        if (time < 1 || __builtin_mul_overflow(state.sequences, time, &rows) ||
            __builtin_add_overflow(state.tokens, rows, &end))
            fail("a run of %lld tokens of %lld sequences: T is at least 1, and positions have 63 bits",
                 static_cast<long long>(time), static_cast<long long>(state.sequences));
        const std::vector<Address> given = { {% for port in inputs %}inputs.{{ port.id }}, {% endfor %} };
        const std::vector<Address> taken = { {% for port in outputs %}outputs.{{ port.id }}, {% endfor %} };
        check_addresses("input", INPUTS, given);
        check_addresses("output", OUTPUTS, taken);
        const Current current(context);
        for (unsigned at = 0; at < sizeof REGIMES / sizeof *REGIMES; ++at) {
            const Regime& regime = REGIMES[at];
            if (time < regime.min_time || time > regime.max_time) continue;
            Layout& layout = state.layouts[at];
            if (layout.batch != state.sequences || layout.time != time) layout = Layout(regime, state.sequences, time);
            if (layout.bytes > state.scratch.bytes()) {
                state.scratch = Memory();
                state.scratch = Memory(context, layout.bytes, "scratch");
            }
            Run run{state.sequences, time, state.tokens, stream, {}, {}};
            for (unsigned i = 0; i < regime.buffer_count; ++i) {
                const Buffer& buffer = regime.buffers[i];
                const Address address = buffer.what == Buffer::input      ? given[buffer.index]
                                        : buffer.what == Buffer::output   ? taken[buffer.index]
                                        : buffer.what == Buffer::constant ? constants[buffer.index]
                                        : buffer.what == Buffer::carried  ? state.copies[state.parity][buffer.index]
                                                                          : state.scratch.address() + layout.offsets[i];
                run.read.push_back(address);
                run.written.push_back(buffer.what == Buffer::carried ? state.copies[1 - state.parity][buffer.index]
                                                                     : address);
            }
            try {
                switch (at) {
{% for regime in regimes %}                    case {{ loop.index0 }}: {{ regime.function }}(run); break;
{% endfor %}                }
            } catch (const Error& error) {
                state.broken = error.what();
                throw;
            }
            state.parity = 1 - state.parity;
            state.tokens += time;
            return;
        }
        fail("a run of %lld tokens: it was compiled for{{ lengths }}", static_cast<long long>(time));
    }

  private:
    int attribute(int which) const {
        int value = 0;
        driver().check(driver().device_attribute(&value, which, device), "ask for a property of the device");
        return value;
    }

    void load() {
        const Driver& d = driver();
        const Current current(context);
        const int multiprocessors = attribute(16), shared_bytes = attribute(97);
        std::map<const unsigned char*, void*> known;
        for (const Kernel& kernel : KERNELS) {
            void*& module = known[kernel.cubin];
            if (!module) {
                d.check(d.load_module(&module, kernel.cubin), "load kernel `%s` on %s", kernel.name, name_of_device);
                modules.push_back(module);
            }
            Loaded loaded{};
            d.check(d.function(&loaded.function, module, kernel.entry), "find kernel `%s` in its cubin", kernel.name);
            if (kernel.shared_bytes > static_cast<unsigned>(shared_bytes))
                fail("kernel `%s` needs %u bytes of shared memory a block, %s has %d", kernel.name, kernel.shared_bytes,
                     name_of_device, shared_bytes);
            // More than every kernel may use without asking.
            if (kernel.shared_bytes > 48 * 1024)
                d.check(d.set_function_attribute(loaded.function, 8, static_cast<int>(kernel.shared_bytes)),
                        "give kernel `%s` %u bytes of shared memory", kernel.name, kernel.shared_bytes);
            int blocks = 0;
            d.check(d.resident_blocks(&blocks, loaded.function, static_cast<int>(kernel.threads), kernel.shared_bytes),
                    "ask how many blocks of kernel `%s` fit", kernel.name);
            loaded.resident_blocks = static_cast<std::int64_t>(blocks) * multiprocessors;
            kernels.push_back(loaded);
        }
    }

    void upload(const std::string& path);

    void unload() {
        driver().push_context(context);
        for (void* module : modules) driver().unload_module(module);
        void* before = nullptr;
        driver().pop_context(&before);
        weights_memory = Memory();
        driver().release_context(device);
    }

    static void check_addresses(const char* what, const std::vector<Port>& ports, const std::vector<Address>& given) {
        for (std::size_t i = 0; i < ports.size(); ++i) {
            if (given[i] == 0) fail("the %s `%s` has no address", what, ports[i].name);
            if (given[i] % 16) fail("the %s `%s` does not lie at a multiple of 16 bytes", what, ports[i].name);
        }
    }

    void launch(const Run& run, unsigned which, std::int64_t blocks, unsigned how, std::initializer_list<Arg> args) const {
        const Driver& d = driver();
        const Kernel& kernel = KERNELS[which];
        const Loaded& loaded = kernels[which];
        if (blocks < 1 || blocks > INT32_MAX)
            fail("kernel `%s` would need %lld blocks: use a smaller batch or a shorter run", kernel.name,
                 static_cast<long long>(blocks));
        if ((how & RESIDENT) && loaded.resident_blocks == 0)
            fail("the blocks of kernel `%s` wait for each other, and the device holds none of them", kernel.name);
        if (how & (RESIDENT | SHARED)) blocks = std::min(blocks, std::max<std::int64_t>(loaded.resident_blocks, 1));
        void* values[{{ most_args }}];
        std::size_t count = 0;
        for (const Arg& arg : args) values[count++] = const_cast<unsigned char*>(arg.value.bytes);
        LaunchAttribute attributes[2] = {};
        LaunchConfig config = {};
        config.grid[0] = static_cast<std::uint32_t>(blocks);
        config.block[0] = kernel.threads;
        config.grid[1] = config.grid[2] = config.block[1] = config.block[2] = 1;
        config.shared_bytes = kernel.shared_bytes;
        config.stream = run.stream;
        config.attributes = attributes;
        // CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.
        for (const unsigned what : {how & RESIDENT ? 2u : 0u, how & EARLY ? 6u : 0u})
            if (what) {
                attributes[config.attribute_count].what = what;
                attributes[config.attribute_count++].value = 1;
            }
        d.check(d.launch(&config, loaded.function, values, nullptr),
                "launch kernel `%s` with %lld blocks of %u threads and %u bytes of shared memory", kernel.name,
                static_cast<long long>(blocks), kernel.threads, kernel.shared_bytes);
    }

    // A tensor in a buffer, of which a kernel copies boxes: lines of 128 bytes, swizzled, zeros outside.
    static TensorMap tensor_map(Address address, Type type, std::uint64_t first, std::initializer_list<MapAxis> axes) {
        std::uint64_t extents[5], strides[5];
        std::uint32_t spans[5], steps[5], count = 0;
        const std::uint64_t bytes = bytes_of(type);
        for (const MapAxis& axis : axes) {
            extents[count] = static_cast<std::uint64_t>(axis.extent);
            strides[count] = static_cast<std::uint64_t>(axis.stride) * bytes;
            spans[count] = static_cast<std::uint32_t>(axis.span);
            steps[count++] = 1;
        }
        // CU_TENSOR_MAP_DATA_TYPE_: INT32, FLOAT16, FLOAT32, BFLOAT16.
        const int kind = type == Type::i32 ? 3 : type == Type::f16 ? 6 : type == Type::f32 ? 7 : 9;
        TensorMap map;
        void* at = reinterpret_cast<void*>(address + first * bytes);
        // No interleaving; swizzled by 128 bytes; promoted to 256 bytes of the L2 cache; zeros outside.
        driver().check(driver().encode_tensor_map(&map, kind, count, at, extents, strides + 1, spans, steps, 0, 3, 3, 0),
                       "describe a tensor to the copy engine");
        return map;
    }

{% for regime in regimes %}    void {{ regime.function }}(const Run& run) const;
{% endfor %}
    struct Loaded {
        void* function;
        std::int64_t resident_blocks;  // of all multiprocessors
    };
    int device = 0;
    char name_of_device[256] = "";
    void* context = nullptr;
    std::vector<void*> modules;
    std::vector<Loaded> kernels;
    Memory weights_memory;
    std::vector<Address> constants;
};

// ---------------------------------------------------------------------------------------------------------
// Its launches, in order
// ---------------------------------------------------------------------------------------------------------

{% for regime in regimes -%}
// {{ regime.lengths_sentence }}
inline void Model::{{ regime.function }}(const Run& run) const {
{{ regime.steps }}}

{% endfor -%}
{% include "standalone_files.cpp" %}
}  // namespace {{ space }}

#ifndef FUSEC_NO_MAIN
{% include "standalone_main.cpp" -%}
#endif
