package gmqwire

import (
	"encoding/hex"
	"strings"
)

// tokenEnd is the SHA-512 of nothing (FIPS 180-4) in hexadecimal: GMQ asks a
// hash for the sum of what it was fed, nothing, behind a given text.
const tokenEnd = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
	"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"

// oldTokenEnd is what stood there in GMQ's first version with users: not the digits
// of the hash but its bytes, as far as JSON lets them through.
var oldTokenEnd = func() string {
	hash, err := hex.DecodeString(tokenEnd)
	if err != nil {
		panic(err)
	}
	return string([]rune(string(hash))) // each byte that is no UTF-8 becomes U+FFFD
}()

// Token is what GMQ sends for a user's name or a password: the text, in
// hexadecimal, and behind it the SHA-512 of nothing. Who sees it knows the text.
func Token(plain string) string { return hex.EncodeToString([]byte(plain)) + tokenEnd }

// DecodeToken is the text that a token was made of. ok is false for what is no
// token. Its digits may be of any case, as in GMQ.
func DecodeToken(token string) (plain string, ok bool) {
	if plain, ok := strings.CutSuffix(token, oldTokenEnd); ok {
		return plain, true
	}
	at := len(token) - len(tokenEnd)
	if at < 0 || !strings.EqualFold(token[at:], tokenEnd) {
		return "", false
	}
	text, err := hex.DecodeString(token[:at])
	return string(text), err == nil
}
