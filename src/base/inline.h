/* What an inner loop asks of the compiler, in the words of gcc and clang. */
#ifndef BWI_INLINE_H
#define BWI_INLINE_H

/* A function that becomes part of each caller, so that what the caller passes as a constant is one. */
#define BWI_INLINE static inline __attribute__((always_inline))

/* Before a loop whose count is known when compiled, at most 28: no loop is left, and an array that it indexes can be registers. */
#if defined(__clang__)
#define BWI_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BWI_UNROLL _Pragma("GCC unroll 28")
#endif
#endif
