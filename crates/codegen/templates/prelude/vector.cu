//@ RawVec
// The raw words behind V stored elements: 16-byte accesses where the size allows, else 8, 4, or one
// element at a time.
template <int BYTES> struct RawVec;
template <> struct RawVec<4> { unsigned int w[1]; typedef unsigned int Access; static constexpr int N = 1; };
template <> struct RawVec<8> { unsigned int w[2]; typedef uint2 Access; static constexpr int N = 1; };
template <> struct __align__(16) RawVec<16> { unsigned int w[4]; typedef uint4 Access; static constexpr int N = 1; };
template <> struct __align__(16) RawVec<32> { unsigned int w[8]; typedef uint4 Access; static constexpr int N = 2; };
template <> struct __align__(16) RawVec<64> { unsigned int w[16]; typedef uint4 Access; static constexpr int N = 4; };

//@ unpack_f32 needs to_f32
// The elements of type T inside raw words, as f32, in memory order.
template <typename T> struct unpack_f32 {
    static __device__ __forceinline__ float at(const unsigned int* w, int i) {
        T t;
        t.bits = (unsigned short)(w[i >> 1] >> ((i & 1) * 16));
        return to_f32(t);
    }
};
template <> struct unpack_f32<float> {
    static __device__ __forceinline__ float at(const unsigned int* w, int i) { return __uint_as_float(w[i]); }
};

//@ pack_f32 needs from_f32
// f32 values rounded to T and packed into raw words, in memory order.
template <typename T, int V> struct pack_f32 {
    static __device__ __forceinline__ void into(unsigned int* w, const float (&x)[V]) {
#pragma unroll
        for (int i = 0; i < V / 2; ++i) {
            w[i] = (unsigned int)from_f32<T>(x[2 * i]).bits | ((unsigned int)from_f32<T>(x[2 * i + 1]).bits << 16);
        }
    }
};
template <int V> struct pack_f32<float, V> {
    static __device__ __forceinline__ void into(unsigned int* w, const float (&x)[V]) {
#pragma unroll
        for (int i = 0; i < V; ++i) w[i] = __float_as_uint(x[i]);
    }
};

//@ VecIsRaw
// Whether V elements of T are moved as whole words (4, 8, 16, 32 or 64 bytes).
template <typename T, int V> struct VecIsRaw {
    static constexpr int BYTES = V * int(sizeof(T));
    static constexpr bool value = BYTES == 4 || BYTES == 8 || BYTES == 16 || BYTES == 32 || BYTES == 64;
};

//@ VecIo needs RawVec, unpack_f32, pack_f32, VecIsRaw
// Word-wise (RAW) or element-wise movement of V elements of T.
template <typename T, int V, bool RAW> struct VecIo {
    static __device__ __forceinline__ void load(const T* p, float (&out)[V]) {
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] = to_f32(p[i]);
    }
    static __device__ __forceinline__ void load_stream(const T* p, float (&out)[V]) { load(p, out); }
    static __device__ __forceinline__ void store(T* p, const float (&x)[V]) {
#pragma unroll
        for (int i = 0; i < V; ++i) p[i] = from_f32<T>(x[i]);
    }
    static __device__ __forceinline__ void store_stream(T* p, const float (&x)[V]) { store(p, x); }
};
template <typename T, int V> struct VecIo<T, V, true> {
    typedef RawVec<V * int(sizeof(T))> Raw;
    typedef typename Raw::Access Access;
    static __device__ __forceinline__ void load(const T* p, float (&out)[V]) {
        Raw r;
#pragma unroll
        for (int i = 0; i < Raw::N; ++i) reinterpret_cast<Access*>(r.w)[i] = reinterpret_cast<const Access*>(p)[i];
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] = unpack_f32<T>::at(r.w, i);
    }
    static __device__ __forceinline__ void load_stream(const T* p, float (&out)[V]) {
        Raw r;
#pragma unroll
        for (int i = 0; i < Raw::N; ++i) reinterpret_cast<Access*>(r.w)[i] = __ldcs(reinterpret_cast<const Access*>(p) + i);
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] = unpack_f32<T>::at(r.w, i);
    }
    static __device__ __forceinline__ void store(T* p, const float (&x)[V]) {
        Raw r;
        pack_f32<T, V>::into(r.w, x);
#pragma unroll
        for (int i = 0; i < Raw::N; ++i) reinterpret_cast<Access*>(p)[i] = reinterpret_cast<const Access*>(r.w)[i];
    }
    static __device__ __forceinline__ void store_stream(T* p, const float (&x)[V]) {
        Raw r;
        pack_f32<T, V>::into(r.w, x);
#pragma unroll
        for (int i = 0; i < Raw::N; ++i) __stcs(reinterpret_cast<Access*>(p) + i, reinterpret_cast<const Access*>(r.w)[i]);
    }
};

//@ load_vec needs VecIo
// out[0..V) = p[0..V) as f32. Whole-word accesses when V*sizeof(T) is 4, 8, 16, 32 or 64 bytes; p must
// then be aligned to min(16, V*sizeof(T)).
template <typename T, int V> __device__ __forceinline__ void load_vec(const T* p, float (&out)[V]) {
    VecIo<T, V, VecIsRaw<T, V>::value>::load(p, out);
}

//@ load_words needs u32
// Four words from a 16-byte aligned address.
__device__ __forceinline__ void load_words(const void* p, u32 (&words)[4]) {
    const uint4 all = *reinterpret_cast<const uint4*>(p);
    words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
}

//@ store_words needs u32
// Four words to a 16-byte aligned address.
__device__ __forceinline__ void store_words(void* p, const u32 (&words)[4]) {
    const uint4 all = {words[0], words[1], words[2], words[3]};
    *reinterpret_cast<uint4*>(p) = all;
}

//@ load_words_stream needs u32
// As load_words, of data that nobody reads again.
__device__ __forceinline__ void load_words_stream(const void* p, u32 (&words)[4]) {
    const uint4 all = __ldcs(reinterpret_cast<const uint4*>(p));
    words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
}

//@ load_component needs load_vec
// out[i] = component j of the i-th of V groups of STEP neighbours. Groups are read whole, so that reading all
// components costs one access a group. Alignment as for load_vec of a group.
template <typename T, int V, int STEP> __device__ __forceinline__ void load_component(const T* p, int j, float (&out)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
        float group[STEP];
        load_vec<T, STEP>(p + i * STEP, group);
        out[i] = group[j];
    }
}

//@ load_chunks needs load_vec
// out[0..V) = V/C chunks of C neighbours, `apart` elements from one to the next. Alignment as for load_vec.
template <typename T, int V, int C> __device__ __forceinline__ void load_chunks(const T* p, int apart, float (&out)[V]) {
#pragma unroll
    for (int i = 0; i < V / C; ++i) {
        float chunk[C];
        load_vec<T, C>(p + i * apart, chunk);
#pragma unroll
        for (int j = 0; j < C; ++j) out[i * C + j] = chunk[j];
    }
}

//@ store_chunks needs VecIo
// The reverse of load_chunks, rounded to T.
template <typename T, int V, int C> __device__ __forceinline__ void store_chunks(T* p, int apart, const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V / C; ++i) {
        float chunk[C];
#pragma unroll
        for (int j = 0; j < C; ++j) chunk[j] = x[i * C + j];
        VecIo<T, C, VecIsRaw<T, C>::value>::store(p + i * apart, chunk);
    }
}

//@ load_vec_stream needs VecIo
// load_vec for data that is read once (weights of a GEMV): marked evict-first in the caches.
template <typename T, int V> __device__ __forceinline__ void load_vec_stream(const T* p, float (&out)[V]) {
    VecIo<T, V, VecIsRaw<T, V>::value>::load_stream(p, out);
}

//@ store_vec needs VecIo
// p[0..V) = x[0..V), rounded to T. Alignment as for load_vec.
template <typename T, int V> __device__ __forceinline__ void store_vec(T* p, const float (&x)[V]) {
    VecIo<T, V, VecIsRaw<T, V>::value>::store(p, x);
}

//@ store_vec_stream needs VecIo
// store_vec for data that leaves the caches before anyone reads it: marked evict-first.
template <typename T, int V> __device__ __forceinline__ void store_vec_stream(T* p, const float (&x)[V]) {
    VecIo<T, V, VecIsRaw<T, V>::value>::store_stream(p, x);
}

//@ PendingEach needs to_f32
// V stored elements, `step` apart, on their way from memory: a load starts now, f32() waits for it.
template <typename T, int V> struct PendingEach {
    T elements[V];
    __device__ __forceinline__ void load(const T* p, int step) {
#pragma unroll
        for (int i = 0; i < V; ++i) elements[i] = p[i * step];
    }
    __device__ __forceinline__ float f32(int i) const { return to_f32(elements[i]); }
};

//@ Pending needs RawVec, unpack_f32, VecIsRaw, PendingEach
// V neighbouring stored elements on their way from memory. Alignment as for load_vec.
template <typename T, int V, bool RAW = VecIsRaw<T, V>::value> struct Pending {
    RawVec<V * int(sizeof(T))> raw;
    __device__ __forceinline__ void load(const T* p) {
        typedef typename RawVec<V * int(sizeof(T))>::Access Access;
#pragma unroll
        for (int i = 0; i < raw.N; ++i) reinterpret_cast<Access*>(raw.w)[i] = reinterpret_cast<const Access*>(p)[i];
    }
    // Of data that nobody reads again.
    __device__ __forceinline__ void load_stream(const T* p) {
        typedef typename RawVec<V * int(sizeof(T))>::Access Access;
#pragma unroll
        for (int i = 0; i < raw.N; ++i) reinterpret_cast<Access*>(raw.w)[i] = __ldcs(reinterpret_cast<const Access*>(p) + i);
    }
    __device__ __forceinline__ float f32(int i) const { return unpack_f32<T>::at(raw.w, i); }
};
template <typename T, int V> struct Pending<T, V, false> {
    PendingEach<T, V> each;
    __device__ __forceinline__ void load(const T* p) { each.load(p, 1); }
    __device__ __forceinline__ void load_stream(const T* p) { each.load(p, 1); }
    __device__ __forceinline__ float f32(int i) const { return each.f32(i); }
};

//@ load_f32 needs to_f32
// *p as f32.
template <typename T> __device__ __forceinline__ float load_f32(const T* p) { return to_f32(*p); }

//@ store_f32 needs from_f32
// *p = x rounded to T.
template <typename T> __device__ __forceinline__ void store_f32(T* p, float x) { *p = from_f32<T>(x); }
