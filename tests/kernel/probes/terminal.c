/* terminal.c: what a program can do to the terminal on its standard input; prints `name result errno` lines. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kd.h>
#include <linux/vt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define GARBAGE 0xdeadbeef00000000u /* the kernel looks at the lower half of a command only */

static void show(const char *name, long result)
{
	printf("%s %d %d\n", name, result < 0 ? -1 : 0, result < 0 ? errno : 0);
	fflush(stdout);
}

static long command(unsigned long number, uintptr_t argument)
{
	return syscall(SYS_ioctl, 0, number, argument);
}

static void both(const char *name, unsigned long number, uintptr_t argument)
{
	char wide[64];

	show(name, command(number, argument));
	snprintf(wide, sizeof wide, "%s-wide", name);
	show(wide, command(number | GARBAGE, argument));
}

/* By the entries of x32 (which has an ioctl of its own) and of i386. */
static void foreign(const char *name, unsigned long number, uintptr_t argument)
{
	static char byte[1] __attribute__((aligned(8)));
	char line[64];
	long result;

	snprintf(line, sizeof line, "%s-x32", name);
	show(line, syscall(514 | 0x40000000, 0, number, argument));
	byte[0] = *(const char *)argument;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(54L), "b"(0L), "c"(number), "d"((long)(uintptr_t)byte)
			 : "memory", "r8", "r9", "r10", "r11");
	errno = (int)-result;
	snprintf(line, sizeof line, "%s-i386", name);
	show(line, result);
}

/* As a session's leader without a terminal: take that of another session, or a new one of its own. */
static void take(const char *name, int fd, unsigned long argument)
{
	if (fork() == 0) {
		setsid();
		show(name, ioctl(fd, TIOCSCTTY, argument));
		_exit(0);
	}
	wait(NULL);
}

static int own_terminal(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	if (master < 0 || grantpt(master) || unlockpt(master))
		return -1;
	return open(ptsname(master), O_RDWR | O_NOCTTY);
}

int main(void)
{
	struct termios settings;
	struct winsize size = {0};
	int discipline = N_TTY, mode = 0, group = getpgrp();
	struct vt_stat consoles;
	int fd = open("/dev/tty", O_RDWR);

	show("dev-tty", fd);
	close(fd);
	printf("leader %d 0\n", getsid(0) == getpid());
	printf("own-group %d 0\n", getpgrp() == getpid());
	show("foreground", tcgetpgrp(0) == group ? 0 : -1);
	show("take-foreground", ioctl(0, TIOCSPGRP, &group));
	show("settings", tcgetattr(0, &settings));
	show("size", ioctl(0, TIOCGWINSZ, &size));
	printf("rows %d 0\n", size.ws_row);
	both("type", TIOCSTI, (uintptr_t)"x");
	both("linux", TIOCLINUX, (uintptr_t)"\x06");
	foreign("type", TIOCSTI, (uintptr_t)"x");
	foreign("linux", TIOCLINUX, (uintptr_t)"\x06");
	both("console", TIOCCONS, 0);
	both("exclusive", TIOCEXCL, 0);
	show("not-exclusive", command(TIOCNXCL, 0));
	both("discipline", TIOCSETD, (uintptr_t)&discipline);
	both("keyboard-mode", KDGKBMODE, (uintptr_t)&mode);
	both("consoles", VT_GETSTATE, (uintptr_t)&consoles);
	take("take", 0, 0);
	take("take-by-force", 0, 1);
	take("take-own", own_terminal(), 0);
	puts("end 0 0");
	return 0;
}
