// Command gmqclient publishes a message to a queue, or takes one, as GMQ's client
// does.
package main

import (
	"os"

	"github.com/ferrymq/ferry/internal/gmqcli"
)

func main() { os.Exit(gmqcli.Main()) }
