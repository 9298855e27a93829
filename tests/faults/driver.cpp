// A driver without a GPU behind it: memory is the host's, kernels compute nothing, and any call can be told to
// fail. Built as libcuda.so by driver.rs, and found by the program where LD_LIBRARY_PATH says.
//
//   DRIVER_FAILS=NAME:N:CODE   the N-th call (from 1) of this function gives this status; what a context does
//                              not survive, every later call gives as well, as a real driver's does
//   DRIVER_HANGS=NAME:N        that call does not return
//   DRIVER_MEMORY=BYTES        of the device (8 GiB)
//   DRIVER_DEVICES=N           how many there are (1)
//   DRIVER_VERSION=N           what it says of itself (13000)
//   DRIVER_CALLS=FILE          how often each function was called, `NAME N` a line, written at the end

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unistd.h>

namespace {

std::recursive_mutex lock;
std::map<std::string, long> calls;
std::map<uintptr_t, size_t> allocated;
int lasting = 0;

long number(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::atol(text) : otherwise;
}

// What no context survives; of the others the next call knows nothing.
bool lasts(int code) {
    for (int fatal : {4, 46, 214, 220, 304, 700, 702, 714, 715, 716, 717, 718, 719, 999})
        if (code == fatal) return true;
    return false;
}

// `NAME:N` at the beginning of a text.
bool is_this(const char* text, const char* name, long n) {
    const std::string wanted = std::string(name) + ":" + std::to_string(n);
    return text && std::strncmp(text, wanted.c_str(), wanted.size()) == 0 &&
           (text[wanted.size()] == 0 || text[wanted.size()] == ':');
}

int called(const char* name) {
    long n;
    {
        std::lock_guard<std::recursive_mutex> guard(lock);
        n = ++calls[name];
        const char* fails = std::getenv("DRIVER_FAILS");
        if (is_this(fails, name, n)) {
            const int code = std::atoi(std::strrchr(fails, ':') + 1);
            // A driver that does not begin does not begin later.
            if (lasts(code) || std::strcmp(name, "cuInit") == 0) lasting = code;
            return code;
        }
        if (lasting) return lasting;
    }
    if (is_this(std::getenv("DRIVER_HANGS"), name, n))
        for (;;) pause();
    return 0;
}

struct AtTheEnd {
    ~AtTheEnd() {
        const char* path = std::getenv("DRIVER_CALLS");
        std::FILE* file = path ? std::fopen(path, "w") : nullptr;
        if (!file) return;
        for (const auto& [name, n] : calls) std::fprintf(file, "%s %ld\n", name.c_str(), n);
        std::fclose(file);
    }
} at_the_end;

size_t memory() { return static_cast<size_t>(number("DRIVER_MEMORY", 8L << 30)); }

size_t taken() {
    size_t sum = 0;
    for (const auto& [address, bytes] : allocated) sum += bytes;
    return sum;
}

// Something to point to, of which nothing is read.
void* thing() {
    static char things[16];
    return things;
}

struct Known {
    int code;
    const char* name;
    const char* words;
};
const Known KNOWN[] = {
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

}  // namespace

#define CALL(NAME, ...)                                   \
    extern "C" int NAME(__VA_ARGS__) {                    \
        if (const int code = called(#NAME)) return code;
#define END  \
    return 0; \
    }

typedef uint64_t Address;

CALL(cuDriverGetVersion, int* version)
    *version = static_cast<int>(number("DRIVER_VERSION", 13000));
END
CALL(cuInit, unsigned) END
CALL(cuDeviceGetCount, int* count)
    *count = static_cast<int>(number("DRIVER_DEVICES", 1));
END
CALL(cuDeviceGet, int* device, int ordinal)
    *device = ordinal;
END
CALL(cuDeviceGetName, char* name, int length, int)
    std::snprintf(name, static_cast<size_t>(length), "no GPU");
END
CALL(cuDeviceTotalMem_v2, size_t* bytes, int)
    *bytes = memory();
END
CALL(cuDeviceGetAttribute, int* value, int which, int)
    switch (which) {
        case 1: *value = 1024; break;           // threads of a block
        case 16: *value = 132; break;           // multiprocessors
        case 38: *value = 50 << 20; break;      // L2
        case 75: *value = 9; break;             // compute capability
        case 76: *value = 0; break;
        case 81: *value = 233472; break;        // shared memory of a multiprocessor
        case 82: *value = 65536; break;         // registers of one
        case 97: *value = 232448; break;        // shared memory of a block
        case 115: *value = 0; break;            // memory pools
        default: *value = 1;
    }
END
CALL(cuDevicePrimaryCtxRetain, void** context, int)
    *context = thing();
END
CALL(cuDevicePrimaryCtxRelease_v2, int) END
CALL(cuCtxGetCurrent, void** context)
    *context = nullptr;
END
CALL(cuCtxSetCurrent, void*) END
CALL(cuCtxPushCurrent_v2, void*) END
CALL(cuCtxPopCurrent_v2, void** context)
    *context = nullptr;
END
CALL(cuDeviceGetPCIBusId, char* place, int length, int)
    std::snprintf(place, static_cast<size_t>(length), "0000:00:00.0");
END
CALL(cuCtxSynchronize) END
CALL(cuStreamCreate, void** stream, unsigned)
    *stream = thing();
END
CALL(cuStreamCreateWithPriority, void** stream, unsigned, int)
    *stream = thing();
END
CALL(cuStreamSynchronize, void*) END
CALL(cuStreamGetId, void*, unsigned long long* id)
    *id = 1;
END
CALL(cuStreamGetCaptureInfo_v3, void*, int* status, uint64_t* id, ...)
    *status = 0;  // nothing is recorded
    *id = 0;
END
CALL(cuThreadExchangeStreamCaptureMode, int*) END
CALL(cuStreamDestroy_v2, void*) END
CALL(cuStreamWaitEvent, void*, void*, unsigned) END
CALL(cuModuleLoadData, void** module, const void*)
    *module = thing();
END
CALL(cuModuleGetFunction, void** function, void*, const char*)
    *function = thing();
END
CALL(cuModuleUnload, void*) END
CALL(cuFuncGetAttribute, int* value, int which, void*)
    // 0: threads of a block, 1: shared memory, 4: registers, 6: the architecture of the code.
    *value = which == 0 ? 1024 : which == 4 ? 32 : which == 6 ? 90 : 0;
END
CALL(cuFuncSetAttribute, void*, int, int) END
CALL(cuOccupancyMaxActiveBlocksPerMultiprocessor, int* blocks, void*, int, size_t)
    *blocks = 1;
END
CALL(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, int* blocks, void*, int, size_t, unsigned)
    *blocks = 1;
END
CALL(cuLaunchKernel, void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**)
END
CALL(cuLaunchKernelEx, const void*, void*, void**, void**) END
CALL(cuLaunchCooperativeKernel, void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
     void**)
END
CALL(cuMemGetInfo_v2, size_t* free, size_t* total)
    std::lock_guard<std::recursive_mutex> guard(lock);
    *total = memory();
    *free = memory() - taken();
END
CALL(cuMemAlloc_v2, Address* address, size_t bytes)
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (bytes == 0) return 1;
    if (bytes > memory() - taken()) return 2;
    // As drivers do: what is smaller may lie in one place with others, at multiples of 256.
    void* place = nullptr;
    if (posix_memalign(&place, 256, bytes)) return 2;
    std::memset(place, 0, bytes);
    *address = reinterpret_cast<uintptr_t>(place);
    allocated[*address] = bytes;
END
CALL(cuMemFree_v2, Address address)
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (allocated.erase(address)) std::free(reinterpret_cast<void*>(address));
END
CALL(cuMemHostAlloc, void** place, size_t bytes, unsigned)
    *place = std::calloc(bytes, 1);
    if (!*place) return 2;
END
CALL(cuMemHostGetDevicePointer_v2, Address* address, void* place, unsigned)
    *address = reinterpret_cast<uintptr_t>(place);
END
CALL(cuMemFreeHost, void* place)
    std::free(place);
END
CALL(cuMemsetD8_v2, Address address, unsigned char byte, size_t bytes)
    std::memset(reinterpret_cast<void*>(address), byte, bytes);
END
CALL(cuMemsetD16Async, Address address, unsigned short value, size_t count, void*)
    std::fill_n(reinterpret_cast<unsigned short*>(address), count, value);
END
CALL(cuMemsetD32Async, Address address, unsigned value, size_t count, void*)
    std::fill_n(reinterpret_cast<unsigned*>(address), count, value);
END
CALL(cuMemsetD8Async, Address address, unsigned char byte, size_t bytes, void*)
    std::memset(reinterpret_cast<void*>(address), byte, bytes);
END
CALL(cuMemcpyHtoDAsync_v2, Address to, const void* from, size_t bytes, void*)
    std::memcpy(reinterpret_cast<void*>(to), from, bytes);
END
CALL(cuMemcpyDtoHAsync_v2, void* to, Address from, size_t bytes, void*)
    std::memcpy(to, reinterpret_cast<void*>(from), bytes);
END
CALL(cuMemcpyDtoDAsync_v2, Address to, Address from, size_t bytes, void*)
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
END
CALL(cuEventCreate, void** event, unsigned)
    *event = thing();
END
CALL(cuEventRecord, void*, void*) END
CALL(cuEventSynchronize, void*) END
CALL(cuEventQuery, void*) END
CALL(cuEventElapsedTime_v2, float* milliseconds, void*, void*)
    *milliseconds = 0.25f;
END
CALL(cuEventDestroy_v2, void*) END
CALL(cuGraphCreate, void** graph, unsigned)
    *graph = thing();
END
CALL(cuGraphAddKernelNode_v2, void** node, void*, void* const*, size_t, const void*)
    *node = thing();
END
CALL(cuGraphKernelNodeSetAttribute, void*, int, const void*) END
CALL(cuGraphAddDependencies_v2, void*, void* const*, void* const*, const void*, size_t) END
CALL(cuGraphInstantiateWithFlags, void** exec, void*, unsigned long long)
    *exec = thing();
END
CALL(cuGraphExecKernelNodeSetParams_v2, void*, void*, const void*) END
CALL(cuGraphLaunch, void*, void*) END
CALL(cuGraphUpload, void*, void*) END
CALL(cuGraphExecDestroy, void*) END
CALL(cuGraphDestroy, void*) END
CALL(cuTensorMapEncodeTiled, void* map, ...)
    std::memset(map, 0, 128);
END

extern "C" int cuGetErrorName(int code, const char** name) {
    *name = nullptr;
    for (const Known& known : KNOWN)
        if (known.code == code) *name = known.name;
    return *name ? 0 : 1;
}
extern "C" int cuGetErrorString(int code, const char** words) {
    *words = nullptr;
    for (const Known& known : KNOWN)
        if (known.code == code) *words = known.words;
    return *words ? 0 : 1;
}
