//go:build unix

package cli

import (
	"os/exec"
	"syscall"
)

// apart keeps the signals of the terminal from a command: Ctrl-C ends what takes
// messages, in good order, and not what handles one.
func apart(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
