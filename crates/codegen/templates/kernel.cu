extern "C" __global__ void __launch_bounds__({{ threads }}{% if persistent %}, 1{% elif resident > 1 %}, {{ resident }}{% endif %}) {{ entry }}(
{%- for p in params %}
    {{ p.declaration }}{% if not loop.last %},{% else %}) {{ open }}{% endif %}{% if p.comment %}  // {{ p.comment }}{% endif %}
{%- endfor %}
{%- if tokens %}
    FUSEC_GIVEN(T == {{ tokens }});
{%- endif %}
{%- if tid %}
    const int tid = threadIdx.x;
{%- endif %}
{%- if shared %}
    FUSEC_DYNAMIC_SMEM(shared_memory);
    float* const smem = reinterpret_cast<float*>(shared_memory);
{%- endif %}
{%- if constants %}
    // Small constants are on their way to the L2 cache while the kernel before this one ends: a few blocks see to it.
    if (blockIdx.x < {{ constant_blocks }}) {
{%- for constant in constants %}
        prefetch_share<{{ constant_blocks }}>({{ constant.name }}, {{ constant.bytes }});
{%- endfor %}
    }
{%- endif %}
{%- if one_phase and not persistent %}
    i64 block = blockIdx.x;
{%- endif %}
{{ body }}}
