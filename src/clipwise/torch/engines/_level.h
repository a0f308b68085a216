/* All kernels of one level, and a table of them: included once a level with LEVEL, LEVEL_NAME, LANES
 * defined.
 */

#define AT_LEVEL(name) PASTE(name, LEVEL)

#include "_vectors.h"

#define DTYPE f32
#define ENTRY float
#define BITS int32_t
#define LARGEST_BITS 0x7fffffff
#define READ(x) ((double)(x))
#define WRITE(x) ((float)(x))
#define CLAMP_BY_FLOATS clamp_f32_by_floats
#include "_kernels.h"

#define DTYPE f64
#define ENTRY double
#define BITS int64_t
#define LARGEST_BITS INT64_MAX
#define READ(x) (x)
#define WRITE(x) (x)
#include "_kernels.h"

#define DTYPE f16
#define ENTRY uint16_t
#define BITS int16_t
#define LARGEST_BITS 0x7fff
#define READ read_f16
#define WRITE write_f16
#include "_kernels.h"

#define DTYPE bf16
#define ENTRY uint16_t
#define BITS int16_t
#define LARGEST_BITS 0x7fff
#define READ read_bf16
#define WRITE write_bf16
#define SCALE_BY_FLOATS scale_bf16_by_floats
#define CLAMP_BY_FLOATS clamp_bf16_by_floats
#include "_kernels.h"

#define OF_DTYPE(dtype)                 \
    {                                   \
        AT_LEVEL(sum_squares_##dtype),  \
        AT_LEVEL(sum_magnitudes_##dtype), \
        AT_LEVEL(largest_##dtype),      \
        AT_LEVEL(scale_##dtype),        \
        AT_LEVEL(clamp_##dtype),        \
        AT_LEVEL(clamp_and_sum_##dtype), \
    }

static const Level AT_LEVEL(level) = {
    LEVEL_NAME,
    {OF_DTYPE(f32), OF_DTYPE(f64), OF_DTYPE(f16), OF_DTYPE(bf16)},
};

#undef OF_DTYPE
#undef AT_LEVEL
#undef LEVEL
#undef LEVEL_NAME
#undef LANES
#undef HAS_F16C
#undef doubles
#undef masks
#undef floats
#undef words
#undef ints
#undef splat
#undef total
#undef count_of
#undef magnitudes
#undef above
#undef choose
#undef to_odd
#undef widened
#undef narrowed
#undef load_f32
#undef load_f64
#undef load_f16
#undef load_bf16
#undef store_f32
#undef store_f64
#undef store_f16
#undef store_bf16
#undef within
#undef clamp_f32_by_floats
#undef clamped_bf16
#undef clamp_bf16_by_floats
#undef scale_bf16_by_floats
