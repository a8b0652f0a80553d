// Package chaos breaks a real Ferry, process and disk, while clients use it, and
// counts what they lost. It holds no code but tests; README.md says of each fault
// what is promised and how it is shown.
package chaos
