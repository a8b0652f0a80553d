package gmqwire

import (
	"encoding/hex"
	"strings"
)

// tokenEnd is the SHA-512 of nothing (FIPS 180-4) in hexadecimal: GMQ asks a
// hash for the sum of what it was fed, nothing, behind a given text.
const tokenEnd = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
	"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"

// Token is what GMQ sends for a user's name or a password: the text, in
// hexadecimal, and behind it the SHA-512 of nothing. Who sees it knows the text.
func Token(plain string) string { return hex.EncodeToString([]byte(plain)) + tokenEnd }

// DecodeToken is the text that a token was made of. ok is false for what is no
// token. Its letters may be of any case, as in GMQ.
func DecodeToken(token string) (plain string, ok bool) {
	at := len(token) - len(tokenEnd)
	if at < 0 || !strings.EqualFold(token[at:], tokenEnd) {
		return "", false
	}
	text, err := hex.DecodeString(token[:at])
	return string(text), err == nil
}
