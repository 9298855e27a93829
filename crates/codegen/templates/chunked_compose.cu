{
    // The state at the start of each segment: S' = decay S + E, where E is what a segment that starts from nothing
    // leaves, and decay that over the segment. A block has every {{ segments.count }}th run of elements.
    constexpr int KEYS = {{ key }}, VALUES = {{ value }}, THREADS = {{ threads }};
    constexpr int SEGMENTS = {{ segments.count }}, SLOT = KEYS * VALUES + {% if per_key %}KEYS{% else %}1{% endif %};
    float* const slots = {{ segments.slots }};
    {{ own }}for (int element = segment * THREADS + tid; element < KEYS * VALUES; element += SEGMENTS * THREADS) {
        const int kj = element / VALUES, vi = element % VALUES;
        float s_element = 0.0f;
        // ---- initial state: s_element = S[kj, vi]
        {{ load_state | indent }}
        // ----
        slots[element] = s_element;
#pragma unroll 4
        for (int next = 1; next < SEGMENTS; ++next) {
            float* const slot = slots + next * SLOT;
            s_element = s_element * slot[KEYS * VALUES{% if per_key %} + kj{% endif %}] + slot[element];
            slot[element] = s_element;
        }
    }
}
