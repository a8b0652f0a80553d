// Package archtest keeps the repository's shape: which package may import
// which, and what no file may say. It holds no code but tests.
package archtest
