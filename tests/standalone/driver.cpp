// A driver whose device is this processor: kernels are objects that the emulator has compiled, and launches run
// them block by block, so that a program which knows nothing but the driver gives real numbers. Strict where a real
// driver would be silent: memory begins as NaN, addresses have to be allocated, shared memory asked for, blocks that
// wait for each other launched so that all are resident.
//
//   DRIVER_ARCH=N      compute capability times ten (90)
//   DRIVER_VERSION=N   what it says of itself (13000)
//   DRIVER_MEMORY=N    bytes of the device (4 GiB)
//   DRIVER_LOG=FILE    a line for each launch, written at the end: blocks, attributes

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

typedef uint64_t Address;
enum : int { INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, BAD_IMAGE = 200, ILLEGAL_ADDRESS = 700, TOO_LARGE = 720 };

constexpr unsigned MULTIPROCESSORS = 5, SMEM_GUARD = 256;
// As the emulator has it: its own state, and the stacks of 1024 threads.
constexpr size_t ARENA_BYTES = (10 << 20) + 1024 * (256 << 10);

long number(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::atol(text) : otherwise;
}

std::map<Address, size_t> allocated;
std::string launches;
int contexts = 0;

struct AtTheEnd {
    ~AtTheEnd() {
        const char* path = std::getenv("DRIVER_LOG");
        std::FILE* file = path ? std::fopen(path, "w") : nullptr;
        if (!file) return;
        std::fputs(launches.c_str(), file);
        std::fprintf(file, "left: %zu allocations, %d contexts\n", allocated.size(), contexts);
        std::fclose(file);
    }
} at_the_end;

// What an emulated kernel exports, and what a block of it is run with.
struct Record {
    uint32_t grid[3], block[3], index[3], smem_bytes, phase, grid_barriers;
    uint64_t seed;
    unsigned char* smem;
    void* arena;
    void** args;
    char* error;
    uint64_t error_bytes;
};
struct Table {
    const char* (*signature)();
    int (*run_block)(Record*);
};

struct Function {
    const Table* table;
    std::string entry;
    int shared_bytes = 48 * 1024;
};
struct Module {
    int file = -1;
    void* library = nullptr;
    std::map<std::string, Function> functions;
};

// Whether an address lies in memory of the device.
bool is_ours(Address address) {
    auto after = allocated.upper_bound(address);
    return after != allocated.begin() && address < std::prev(after)->first + std::prev(after)->second;
}

void* thing() {
    static char things[16];
    return things;
}

struct Attribute {
    uint32_t what, unused;
    int32_t value;
    unsigned char rest[60];
};
struct Config {
    uint32_t grid[3], block[3], shared_bytes;
    void* stream;
    Attribute* attributes;
    uint32_t attribute_count;
};

// One run of the grid; the barriers that its blocks met, or -1.
long run_grid(const Function& function, const Config& config, void** args, uint32_t phase) {
    static void* arena = mmap(nullptr, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void* smem = nullptr;
    if (posix_memalign(&smem, 128, config.shared_bytes + SMEM_GUARD)) return -1;
    char error[1024] = "";
    Record record = {};
    for (int i = 0; i < 3; ++i) {
        record.grid[i] = config.grid[i];
        record.block[i] = config.block[i];
    }
    record.smem_bytes = config.shared_bytes;
    record.phase = phase;
    record.smem = static_cast<unsigned char*>(smem);
    record.arena = arena;
    record.args = args;
    record.error = error;
    record.error_bytes = sizeof error;
    long barriers = 0;
    for (uint32_t block = 0; block < config.grid[0] && barriers >= 0; ++block) {
        record.index[0] = block;
        if (function.table->run_block(&record)) {
            std::fprintf(stderr, "driver: %s: %s\n", function.entry.c_str(), error);
            barriers = -1;
        } else {
            barriers = record.grid_barriers;
        }
    }
    std::free(smem);
    return barriers;
}

int launch(const Config& config, Function& function, void** args) {
    const std::string signature = function.table->signature();
    bool cooperative = false, early = false;
    for (uint32_t i = 0; i < config.attribute_count; ++i) {
        if (config.attributes[i].value != 1) return INVALID;
        cooperative |= config.attributes[i].what == 2;
        early |= config.attributes[i].what == 6;
    }
    if (static_cast<int>(config.shared_bytes) > function.shared_bytes) return INVALID;
    if (cooperative && config.grid[0] > MULTIPROCESSORS) return TOO_LARGE;
    for (size_t i = 0; i < signature.size(); ++i) {
        Address address;
        std::memcpy(&address, args[i], 8);
        // Maps begin with their address.
        if ((signature[i] == 'p' || signature[i] == 't') && !is_ours(address)) {
            std::fprintf(stderr, "driver: %s: argument %zu is no address\n", function.entry.c_str(), i);
            return ILLEGAL_ADDRESS;
        }
    }
    launches += function.entry + " " + std::to_string(config.grid[0]) + (cooperative ? " resident" : "") +
                (early ? " early" : "") + (signature.find('t') == std::string::npos ? "" : " maps") + "\n";
    const long barriers = run_grid(function, config, args, 0);
    if (barriers > 0 && !cooperative) return TOO_LARGE;
    for (long phase = 1; phase <= barriers; ++phase)
        if (run_grid(function, config, args, static_cast<uint32_t>(phase)) != barriers) return ILLEGAL_ADDRESS;
    return barriers < 0 ? ILLEGAL_ADDRESS : 0;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) {
    *version = static_cast<int>(number("DRIVER_VERSION", 13000));
    return 0;
}
int cuGetErrorName(int code, const char** name) {
    *name = code == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : nullptr;
    return *name ? 0 : INVALID;
}
int cuGetErrorString(int code, const char** words) {
    *words = code == NO_MEMORY ? "out of memory" : nullptr;
    return *words ? 0 : INVALID;
}
int cuDeviceGetCount(int* count) {
    *count = 1;
    return 0;
}
int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return 0;
}
int cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, static_cast<size_t>(length), "emulated");
    return 0;
}
int cuDeviceGetAttribute(int* value, int which, int) {
    const int arch = static_cast<int>(number("DRIVER_ARCH", 90));
    *value = which == 16 ? static_cast<int>(MULTIPROCESSORS) : which == 75 ? arch / 10 : which == 76 ? arch % 10 : which == 97 ? 232448 : 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
    ++contexts;
    *context = thing();
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    --contexts;
    return 0;
}
int cuCtxPushCurrent_v2(void* context) { return context == thing() ? 0 : INVALID; }
int cuCtxPopCurrent_v2(void** context) {
    *context = thing();
    return 0;
}

// The image is a shared object, which ends behind its table of sections.
int cuModuleLoadData(void** out, const void* image) {
    const auto* bytes = static_cast<const unsigned char*>(image);
    if (std::memcmp(bytes, "\177ELF", 4)) return BAD_IMAGE;
    uint64_t sections;
    uint16_t size, count;
    std::memcpy(&sections, bytes + 0x28, 8);
    std::memcpy(&size, bytes + 0x3a, 2);
    std::memcpy(&count, bytes + 0x3c, 2);
    auto* module = new Module;
    module->file = memfd_create("kernel", MFD_CLOEXEC);
    const size_t length = sections + static_cast<size_t>(size) * count;
    if (write(module->file, bytes, length) != static_cast<ssize_t>(length)) return BAD_IMAGE;
    module->library = dlopen(("/proc/self/fd/" + std::to_string(module->file)).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!module->library) {
        std::fprintf(stderr, "driver: %s\n", dlerror());
        return BAD_IMAGE;
    }
    *out = module;
    return 0;
}
int cuModuleUnload(void* of) {
    auto* module = static_cast<Module*>(of);
    dlclose(module->library);
    close(module->file);
    delete module;
    return 0;
}
int cuModuleGetFunction(void** out, void* of, const char* entry) {
    auto* module = static_cast<Module*>(of);
    if (std::strncmp(entry, "fusec_", 6)) return INVALID;
    Function& function = module->functions[entry];
    function.table = static_cast<const Table*>(dlsym(module->library, "emulator_table"));
    function.entry = entry;
    *out = &function;
    return function.table ? 0 : BAD_IMAGE;
}
int cuFuncSetAttribute(void* function, int which, int value) {
    if (which != 8 || value > 232448) return INVALID;
    static_cast<Function*>(function)->shared_bytes = value;
    return 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int, size_t) {
    *blocks = 1;
    return 0;
}
int cuLaunchKernelEx(const void* config, void* function, void** args, void** extra) {
    return extra ? INVALID : launch(*static_cast<const Config*>(config), *static_cast<Function*>(function), args);
}
int cuMemAlloc_v2(Address* address, size_t bytes) {
    size_t taken = 0;
    for (const auto& one : allocated) taken += one.second;
    if (bytes == 0) return INVALID;
    void* place = nullptr;
    if (taken + bytes > static_cast<size_t>(number("DRIVER_MEMORY", 4L << 30)) || posix_memalign(&place, 256, bytes))
        return NO_MEMORY;
    std::memset(place, 0xff, bytes);
    *address = reinterpret_cast<uintptr_t>(place);
    allocated[*address] = bytes;
    return 0;
}
int cuMemFree_v2(Address address) {
    if (!allocated.erase(address)) return INVALID;
    std::free(reinterpret_cast<void*>(address));
    return 0;
}
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) {
    if (!is_ours(to)) return ILLEGAL_ADDRESS;
    std::memcpy(reinterpret_cast<void*>(to), from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) {
    if (!is_ours(from)) return ILLEGAL_ADDRESS;
    std::memcpy(to, reinterpret_cast<void*>(from), bytes);
    return 0;
}
int cuMemsetD8Async(Address address, unsigned char value, size_t count, void*) {
    std::memset(reinterpret_cast<void*>(address), value, count);
    return 0;
}
int cuMemsetD16Async(Address address, unsigned short value, size_t count, void*) {
    for (size_t i = 0; i < count; ++i) reinterpret_cast<unsigned short*>(address)[i] = value;
    return 0;
}
int cuMemsetD32Async(Address address, unsigned value, size_t count, void*) {
    for (size_t i = 0; i < count; ++i) reinterpret_cast<unsigned*>(address)[i] = value;
    return 0;
}
int cuStreamCreate(void** stream, unsigned) {
    *stream = thing();
    return 0;
}
int cuStreamDestroy_v2(void*) { return 0; }
int cuStreamSynchronize(void*) { return 0; }

// As the emulator reads it, in the place of the driver's own form.
int cuTensorMapEncodeTiled(void* out, int kind, uint32_t axes, void* address, const uint64_t* extents,
                           const uint64_t* strides, const uint32_t* spans, const uint32_t* steps, int interleave,
                           int swizzle, int, int fill) {
    struct Map {
        uint64_t address;
        uint32_t element_bytes, axes;
        uint64_t extent[5], stride_bytes[5];
        uint32_t span[5];
    } map = {};
    const uint32_t bytes = kind == 6 || kind == 9 ? 2 : kind == 3 || kind == 7 ? 4 : 0;
    const auto start = reinterpret_cast<uintptr_t>(address);
    if (!bytes || axes < 1 || axes > 5 || interleave != 0 || swizzle != 3 || fill != 0 || start % 16) return INVALID;
    map.address = start;
    map.element_bytes = bytes;
    map.axes = axes;
    for (uint32_t i = 0; i < 5; ++i) {
        map.extent[i] = map.span[i] = 1;
        map.stride_bytes[i] = bytes;
        if (i >= axes) continue;
        map.extent[i] = extents[i];
        map.span[i] = spans[i];
        if (i > 0) map.stride_bytes[i] = strides[i - 1];
        if (steps[i] != 1 || extents[i] == 0 || spans[i] > 256 || (i > 0 && strides[i - 1] % 16)) return INVALID;
    }
    if (map.span[0] * bytes > 128) return INVALID;
    std::memset(out, 0, 128);
    std::memcpy(out, &map, sizeof map);
    return 0;
}

}  // extern "C"
