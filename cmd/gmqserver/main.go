// Command gmqserver is a broker for GMQ's clients, configured as GMQ's server is.
package main

import (
	"os"

	"github.com/ferrymq/ferry/internal/gmqcli/daemon"
)

func main() { os.Exit(daemon.Main()) }
