// ---------------------------------------------------------------------------------------------------------
// The driver: what of libcuda.so.1 is used, declared as its header has it.
// ---------------------------------------------------------------------------------------------------------

// An address in the memory of a device.
using Address = std::uint64_t;
// A stream, as the driver and the runtime of CUDA know it: a CUstream, a cudaStream_t.
using Stream = void*;

// CUlaunchAttribute and CUlaunchConfig.
struct alignas(8) LaunchAttribute {
    std::uint32_t what;
    std::uint32_t unused;
    std::int32_t value;
    unsigned char rest[60];
};
struct LaunchConfig {
    std::uint32_t grid[3], block[3], shared_bytes;
    Stream stream;
    LaunchAttribute* attributes;
    std::uint32_t attribute_count;
};
// CUtensorMap.
struct alignas(128) TensorMap {
    unsigned char bytes[128];
};
static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56 && sizeof(TensorMap) == 128,
              "laid out as the driver has them");

class Driver {
    struct Symbol {
        void* address;
        template <typename F>
        operator F*() const {
            return reinterpret_cast<F*>(address);
        }
    };

    static void* open() {
        void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
        if (!library) fail("no driver of CUDA: %s; it is installed with the driver of the GPU", dlerror());
        return library;
    }
    Symbol find(const char* name) const {
        void* address = dlsym(library, name);
        if (!address) fail("the driver has no %s: it is older than CUDA 12.0; a newer one is needed", name);
        return {address};
    }

    void* library = open();

  public:
    int (*init)(unsigned) = find("cuInit");
    int (*version)(int*) = find("cuDriverGetVersion");
    int (*error_name)(int, const char**) = find("cuGetErrorName");
    int (*error_words)(int, const char**) = find("cuGetErrorString");
    int (*device_count)(int*) = find("cuDeviceGetCount");
    int (*device)(int*, int) = find("cuDeviceGet");
    int (*device_name)(char*, int, int) = find("cuDeviceGetName");
    int (*device_attribute)(int*, int, int) = find("cuDeviceGetAttribute");
    int (*retain_context)(void**, int) = find("cuDevicePrimaryCtxRetain");
    int (*release_context)(int) = find("cuDevicePrimaryCtxRelease_v2");
    int (*push_context)(void*) = find("cuCtxPushCurrent_v2");
    int (*pop_context)(void**) = find("cuCtxPopCurrent_v2");
    int (*load_module)(void**, const void*) = find("cuModuleLoadData");
    int (*unload_module)(void*) = find("cuModuleUnload");
    int (*function)(void**, void*, const char*) = find("cuModuleGetFunction");
    int (*set_function_attribute)(void*, int, int) = find("cuFuncSetAttribute");
    int (*resident_blocks)(int*, void*, int, std::size_t) = find("cuOccupancyMaxActiveBlocksPerMultiprocessor");
    int (*launch)(const LaunchConfig*, void*, void**, void**) = find("cuLaunchKernelEx");
    int (*allocate)(Address*, std::size_t) = find("cuMemAlloc_v2");
    int (*release)(Address) = find("cuMemFree_v2");
    int (*to_device)(Address, const void*, std::size_t, Stream) = find("cuMemcpyHtoDAsync_v2");
    int (*to_host)(void*, Address, std::size_t, Stream) = find("cuMemcpyDtoHAsync_v2");
    int (*fill_8)(Address, unsigned char, std::size_t, Stream) = find("cuMemsetD8Async");
    int (*fill_16)(Address, unsigned short, std::size_t, Stream) = find("cuMemsetD16Async");
    int (*fill_32)(Address, unsigned, std::size_t, Stream) = find("cuMemsetD32Async");
    int (*create_stream)(Stream*, unsigned) = find("cuStreamCreate");
    int (*destroy_stream)(Stream) = find("cuStreamDestroy_v2");
    int (*wait)(Stream) = find("cuStreamSynchronize");
    int (*encode_tensor_map)(TensorMap*, int, std::uint32_t, void*, const std::uint64_t*, const std::uint64_t*,
                             const std::uint32_t*, const std::uint32_t*, int, int, int, int) =
        find("cuTensorMapEncodeTiled");

    // What is done, and a call of the driver that may have failed: then an error with its words for it.
    __attribute__((format(printf, 3, 4))) void check(int status, const char* doing, ...) const {
        if (status == 0) return;
        char what[512];
        va_list values;
        va_start(values, doing);
        std::vsnprintf(what, sizeof what, doing, values);
        va_end(values);
        const char *name = nullptr, *words = nullptr;
        error_name(status, &name);
        error_words(status, &words);
        fail("cannot %s: %s (%s)", what, name ? name : std::to_string(status).c_str(),
             words ? words : "the driver has no words for it");
    }
};

// The driver of this process, opened by the first who asks.
inline const Driver& driver() {
    static const Driver opened;
    return opened;
}

// A context that is the thread's until this goes; then the one before is.
class Current {
  public:
    explicit Current(void* context) { driver().check(driver().push_context(context), "use the device"); }
    ~Current() {
        void* before = nullptr;
        driver().pop_context(&before);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
};
