// pause: the process of a pod's sandbox. It holds the pod's namespaces open, and in
// a pod with a shared PID namespace it is PID 1 and reaps orphans. There is one per
// pod, so it is built without a C library and takes a few pages of memory.
//
// Signals are blocked and waited for, not handled: the kernel keeps a blocked signal
// for PID 1 too, which otherwise gets only those that it has a handler for.

#include <linux/wait.h>
#include <asm/signal.h>
#include <asm/unistd.h>

static long syscall4(long number, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	long ret;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
#elif defined(__arm__)
	register long r7 __asm__("r7") = number;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;
	__asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2), "r"(r3) : "memory");
	return r0;
#else
#error "add the system call of this machine"
#endif
}

#define BIT(signal) (1ULL << ((signal) - 1))

// The kernel's own sigset_t: 64 signals on every machine above.
static const unsigned long long awaited = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);

__attribute__((noreturn, used)) void _start(void)
{
	syscall4(__NR_rt_sigprocmask, SIG_BLOCK, (long)&awaited, 0, sizeof(awaited));
	for (;;) {
		switch (syscall4(__NR_rt_sigtimedwait, (long)&awaited, 0, 0, sizeof(awaited))) {
		case SIGINT:
		case SIGTERM:
			syscall4(__NR_exit_group, 0, 0, 0, 0);
			break;
		case SIGCHLD:
			while (syscall4(__NR_wait4, -1, 0, WNOHANG, 0) > 0)
				;
		}
	}
}
