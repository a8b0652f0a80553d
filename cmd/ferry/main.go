// Command ferry is the broker, and what one does with it from a terminal.
package main

import (
	"os"

	"github.com/ferrymq/ferry/internal/cli"
)

func main() { os.Exit(cli.Main()) }
