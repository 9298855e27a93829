// ---------------------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------------------

inline std::uint64_t product(const std::vector<std::uint64_t>& shape) {
    std::uint64_t elements = 1;
    for (const std::uint64_t extent : shape) elements *= extent;
    return elements;
}

// What buffers begin at multiples of.
constexpr std::uint64_t ALIGNMENT = 256;

inline std::uint64_t aligned(std::uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Bytes of `rows` rows, or an error.
inline std::uint64_t bytes_of(Type type, std::uint64_t elements, std::uint64_t rows, const char* name) {
    std::uint64_t bytes = 0;
    // Room for what sums of such sizes need.
    constexpr std::uint64_t MOST = std::uint64_t{1} << 56;
    if (__builtin_mul_overflow(elements, rows, &bytes) || __builtin_mul_overflow(bytes, bytes_of(type), &bytes) ||
        bytes > MOST)
        fail("`%s` has more bytes than can be addressed: use a smaller batch or a shorter run", name);
    return bytes;
}

// Memory of a device, freed when this goes: after what is under way on it.
class Memory {
  public:
    Memory() = default;
    Memory(void* in, std::uint64_t bytes, const char* what) : context(in), size(bytes) {
        const Current current(context);
        driver().check(driver().allocate(&start, std::max<std::uint64_t>(bytes, 1)), "allocate %llu bytes for %s",
                       static_cast<unsigned long long>(bytes), what);
    }
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        Memory old(std::move(*this));
        swap(other);
        return *this;
    }
    ~Memory() {
        if (!start) return;
        driver().push_context(context);
        driver().release(start);
        void* before = nullptr;
        driver().pop_context(&before);
    }
    Address address() const { return start; }
    std::uint64_t bytes() const { return size; }

  private:
    void swap(Memory& other) noexcept {
        std::swap(context, other.context);
        std::swap(start, other.start);
        std::swap(size, other.size);
    }
    void* context = nullptr;
    Address start = 0;
    std::uint64_t size = 0;
};

// How many runs of `of` tokens `time` tokens are; the last may be shorter.
inline std::int64_t runs_of(std::int64_t time, std::int64_t of) { return time / of + (time % of != 0); }

// Where the scratch buffers of a regime lie at a shape: those that are never in use at the same time share bytes.
struct Layout {
    std::int64_t batch = 0, time = 0;
    std::vector<std::uint64_t> offsets;
    std::uint64_t bytes = 0;

    Layout() = default;
    Layout(const Regime& regime, std::int64_t b, std::int64_t t)
        : batch(b), time(t), offsets(regime.buffer_count, 0) {
        struct Slot {
            unsigned buffer;
            std::uint64_t offset, bytes;
        };
        std::vector<Slot> wanted;
        for (unsigned i = 0; i < regime.buffer_count; ++i) {
            const Buffer& buffer = regime.buffers[i];
            if (buffer.what != Buffer::scratch || buffer.first < 0) continue;
            const std::int64_t rows = buffer.rows == Rows::once        ? 1
                                      : buffer.rows == Rows::sequences ? b
                                      : buffer.rows == Rows::tokens    ? b * t
                                                                       : b * runs_of(t, buffer.run);
            const std::uint64_t size =
                bytes_of(buffer.type, buffer.elements, static_cast<std::uint64_t>(rows), "scratch");
            wanted.push_back({i, 0, aligned(size)});
        }
        // The largest first: small ones fill what they leave.
        std::stable_sort(wanted.begin(), wanted.end(),
                         [](const Slot& a, const Slot& b) { return a.bytes > b.bytes; });
        std::vector<Slot> placed;
        for (Slot slot : wanted) {
            const Buffer& buffer = regime.buffers[slot.buffer];
            std::vector<std::pair<std::uint64_t, std::uint64_t>> taken;
            for (const Slot& other : placed) {
                const Buffer& its = regime.buffers[other.buffer];
                if (its.first <= buffer.last && buffer.first <= its.last)
                    taken.emplace_back(other.offset, other.offset + other.bytes);
            }
            std::sort(taken.begin(), taken.end());
            // The smallest gap that holds it, or the end.
            std::uint64_t end = 0, smallest = UINT64_MAX, found = 0;
            for (const auto& range : taken) {
                const std::uint64_t gap = range.first > end ? range.first - end : 0;
                if (gap >= slot.bytes && gap < smallest) {
                    smallest = gap;
                    found = end;
                }
                end = std::max(end, range.second);
            }
            slot.offset = smallest == UINT64_MAX ? end : found;
            offsets[slot.buffer] = slot.offset;
            bytes = std::max(bytes, slot.offset + slot.bytes);
            placed.push_back(slot);
        }
    }
};

// Numbers as their types have them, to nearest, ties to even.
inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float float_of(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline std::uint16_t to_bf16(float x) {
    const std::uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float from_bf16(std::uint16_t half) { return float_of(static_cast<std::uint32_t>(half) << 16); }
inline float from_f16(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half >> 15) << 31, exponent = half >> 10 & 31;
    const std::uint32_t fraction = half & 0x3ff;
    if (exponent == 0) {
        const float x = std::ldexp(static_cast<float>(fraction), -24);
        return sign ? -x : x;
    }
    if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}
inline std::uint16_t to_f16(float x) {
    const std::uint32_t bits = bits_of(x);
    const std::uint16_t sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
    const float size = std::fabs(x);
    if (std::isnan(x)) return sign | 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < 6.103515625e-05f)  // below 2^-14: a multiple of 2^-24
        return sign | static_cast<std::uint16_t>(std::nearbyint(std::ldexp(size, 24)));
    const std::uint32_t rounded = (bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1);
    return sign | static_cast<std::uint16_t>((rounded - (112u << 23)) >> 13);
}
