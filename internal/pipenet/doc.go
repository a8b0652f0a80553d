// Package pipenet is a network within a process: listeners and connections
// that have buffers, deadlines and the errors of real ones, and that can be
// paused and cut.
//
// Whoever waits in it waits on a sync.Cond or a channel, so that a test in a
// testing/synctest bubble sees it as durably blocked and its time goes on. A
// Network, its listeners and its connections belong to the bubble they were made
// in.
package pipenet
