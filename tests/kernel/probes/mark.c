/* mark.c: creates the file that shows that a command was executed. Usage: mark PATH */
#include "probe.h"

#include <fcntl.h>

int main(int argc, char **argv)
{
	return argc < 2 || open(argv[1], O_WRONLY | O_CREAT, 0666) < 0;
}
