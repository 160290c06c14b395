/*
 * Calls into protocol libraries that can be left from outside: when the library crashes, or does not return.
 *
 * A call is left (siglongjmp) only while it is in the library's own code, or in a leaf function that this code has called,
 * such as memcpy: then no lock is held and no frame of Rust lies in between. Anywhere else a crash takes its usual course,
 * after a line that names the library.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "guard.h"

static __thread struct freena_guard *current;
static struct sigaction before[NSIG];

static int in_text(const struct freena_text *text, uintptr_t at)
{
	for (size_t i = 0; i < text->count; i++)
		if (at >= text->ranges[i].start && at < text->ranges[i].end)
			return 1;
	return 0;
}

/* Whether the interrupted code is the library's, or a leaf function called by it. */
static int can_leave(const struct freena_text *text, const ucontext_t *context)
{
#if defined(__x86_64__)
	uintptr_t at = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
	uintptr_t stack = (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
	if (in_text(text, at))
		return 1;
	/* A call through a bad pointer leaves the return address on the stack, too. A stack that has overflowed is not read. */
	return stack % sizeof(uintptr_t) == 0 && stack >= text->stack_low && stack < text->stack_high
		&& in_text(text, *(const uintptr_t *)stack);
#elif defined(__aarch64__)
	return in_text(text, (uintptr_t)context->uc_mcontext.pc) || in_text(text, (uintptr_t)context->uc_mcontext.regs[30]);
#else
	(void)text, (void)context;
	return 0;
#endif
}

static void say(const char *words)
{
	ssize_t ignored = write(STDERR_FILENO, words, strlen(words));
	(void)ignored;
}

static void handle(int number, siginfo_t *info, void *context)
{
	struct freena_guard *guard = current;
	(void)info;
	if (guard && __atomic_load_n(&guard->inside, __ATOMIC_RELAXED)) {
		if (number != FREENA_INTERRUPT || __atomic_load_n(&guard->stuck, __ATOMIC_RELAXED) == guard->inside) {
			if (number != SIGABRT && !__atomic_load_n(&guard->hosted, __ATOMIC_RELAXED)
			    && can_leave(&guard->text, context))
				siglongjmp(guard->environment, number);
			if (number != FREENA_INTERRUPT) {
				say("freena-stack: ");
				say(number == SIGABRT ? "abort() was called" : "a crash happened");
				say(" in a call of protocol library ");
				say(guard->name);
				say(", outside its own code: nothing can go on\n");
			}
		}
	}
	if (number != FREENA_INTERRUPT) {
		/* As without us: the instruction is repeated, and what was there before is asked. */
		sigaction(number, &before[number], NULL);
		if (number == SIGABRT)
			raise(number);
	}
}

int freena_guard_install(void)
{
	static const int numbers[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_sigaction = handle;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (sigaction(numbers[i], &action, &before[numbers[i]]))
			return -1;
	action.sa_flags |= SA_RESTART;
	return sigaction(FREENA_INTERRUPT, &action, NULL);
}

int freena_guard_signal(void)
{
	return FREENA_INTERRUPT;
}

size_t freena_guard_size(void)
{
	return sizeof(struct freena_guard);
}

int freena_guard_call(struct freena_guard *guard, void (*call)(void *), void *argument)
{
	int cause = sigsetjmp(guard->environment, 0);
	if (cause) {
		__atomic_store_n(&guard->inside, 0, __ATOMIC_RELEASE);
		current = NULL;
		return cause;
	}
	current = guard;
	guard->serial += 1;
	__atomic_store_n(&guard->inside, guard->serial, __ATOMIC_RELEASE);
	call(argument);
	__atomic_store_n(&guard->inside, 0, __ATOMIC_RELEASE);
	current = NULL;
	return 0;
}
