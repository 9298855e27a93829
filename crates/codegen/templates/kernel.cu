// {{ entry }}: {{ title }}
//
{%- for line in header %}
//{% if line %} {{ line }}{% endif %}
{%- endfor %}

{{ prelude }}
extern "C" __global__ void __launch_bounds__({{ threads }}{% if resident > 1 %}, {{ resident }}{% endif %}) {{ entry }}(
{%- for p in params %}
    {{ p.declaration }}{% if not loop.last %},{% else %}) {{ open }}{% endif %}{% if p.comment %}  // {{ p.comment }}{% endif %}
{%- endfor %}
    const int tid = threadIdx.x;
{%- if shared %}
    FUSEC_DYNAMIC_SMEM(shared_memory);
    float* const smem = reinterpret_cast<float*>(shared_memory);
{%- endif %}
{%- if one_phase %}
    i64 block = blockIdx.x;
{%- endif %}
{{ body }}}
