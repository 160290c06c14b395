/* Shared by guard.c and guard.rs, which declares the same layout. */
#ifndef FREENA_GUARD_H
#define FREENA_GUARD_H

#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

/* Interrupts a call that does not return. Not used by the C library, nor by the server otherwise. */
#define FREENA_INTERRUPT (SIGRTMIN + 7)

struct freena_range {
	uintptr_t start, end;
};

/* The library's code, and the stack of the thread that calls it. */
struct freena_text {
	const struct freena_range *ranges;
	size_t count;
	uintptr_t stack_low, stack_high;
};

struct freena_guard {
	/* Number of the call under way, 0 for none. */
	uint64_t inside;
	/* Number of the call that the watchdog wants to end. */
	uint64_t stuck;
	/* Not 0 while the library has called the stack back: Rust's frames cannot be left. */
	uint64_t hosted;
	uint64_t serial;
	const char *name;
	struct freena_text text;
	sigjmp_buf environment;
};

#endif
