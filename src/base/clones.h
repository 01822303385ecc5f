/* One binary, the best loop each processor has: functions compiled for several instruction sets, chosen at load time. */
#ifndef FATHOM_BASE_CLONES_H
#define FATHOM_BASE_CLONES_H

/* For static functions: clang 14 gives others' callers no plain name. A name must be unique in the library all the same: it gives the resolver of
 * a static function external linkage. Sanitizers instrument the resolvers that this makes, which run before they are ready; their builds do
 * without. */
#if !defined(__x86_64__) || defined(FATHOM_NO_CLONES)
#define CLONES
#elif defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

#endif
