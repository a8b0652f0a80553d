package endpoint

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// The keys that openssl encrypts unless told otherwise: PKCS #8 (RFC 5958,
// section 3) with PBES2, PBKDF2 and AES-CBC (RFC 8018, appendix A).
//
//	SEQUENCE {
//	  SEQUENCE { OID PBES2, SEQUENCE {
//	    SEQUENCE { OID PBKDF2, SEQUENCE { salt, iterations, [key length], [PRF] } }
//	    SEQUENCE { OID AES-CBC, OCTET STRING iv } } }
//	  OCTET STRING encrypted
//	}
type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Encrypted []byte
}

type pbes2Parameters struct {
	Derivation pkix.AlgorithmIdentifier
	Encryption pkix.AlgorithmIdentifier
}

type pbkdf2Parameters struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

var aesCBC = []struct {
	oid asn1.ObjectIdentifier
	key int // bytes
}{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32},
}

var hmacs = []struct {
	oid  asn1.ObjectIdentifier
	hash func() hash.Hash
}{
	{nil, sha1.New}, // where it is absent; for deriving keys SHA-1 is not broken
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}, sha1.New},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, sha256.New},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 10}, sha512.New384},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}, sha512.New},
}

// maxIterations keeps a damaged file from taking minutes: about a second.
// openssl's default is 2048.
const maxIterations = 2_000_000

var (
	errCipher   = errors.New("which is not supported: decrypt it, or write it anew with openssl pkcs8 -topk8 -v2 aes-256-cbc")
	errPassword = errors.New("cannot be decrypted: the password is not that of the key")
	errKey      = errors.New("is no encrypted key as RFC 5958 has it")
)

// decryptPKCS8 is the PrivateKeyInfo in an EncryptedPrivateKeyInfo.
func decryptPKCS8(der []byte, password string) ([]byte, error) {
	var key encryptedKey
	if rest, err := asn1.Unmarshal(der, &key); err != nil || len(rest) > 0 {
		return nil, errKey
	}
	if !key.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, fmt.Errorf("is encrypted with %s, %w", key.Algorithm.Algorithm, errCipher)
	}
	var scheme pbes2Parameters
	if _, err := asn1.Unmarshal(key.Algorithm.Parameters.FullBytes, &scheme); err != nil {
		return nil, errKey
	}
	if !scheme.Derivation.Algorithm.Equal(oidPBKDF2) {
		return nil, fmt.Errorf("has its password hashed with %s, %w", scheme.Derivation.Algorithm, errCipher)
	}
	var derivation pbkdf2Parameters
	if _, err := asn1.Unmarshal(scheme.Derivation.Parameters.FullBytes, &derivation); err != nil {
		return nil, errKey
	}
	prf := -1
	for i, h := range hmacs {
		if h.oid.Equal(derivation.PRF.Algorithm) {
			prf = i
		}
	}
	if prf < 0 {
		return nil, fmt.Errorf("has its password hashed with %s, %w", derivation.PRF.Algorithm, errCipher)
	}
	size := 0
	for _, c := range aesCBC {
		if c.oid.Equal(scheme.Encryption.Algorithm) {
			size = c.key
		}
	}
	if size == 0 {
		return nil, fmt.Errorf("is encrypted with %s, %w", scheme.Encryption.Algorithm, errCipher)
	}
	var iv []byte
	if _, err := asn1.Unmarshal(scheme.Encryption.Parameters.FullBytes, &iv); err != nil || len(iv) != aes.BlockSize {
		return nil, errKey
	}
	if derivation.Iterations < 1 || derivation.Iterations > maxIterations || derivation.KeyLength != 0 && derivation.KeyLength != size {
		return nil, errKey
	}
	secret, err := pbkdf2.Key(hmacs[prf].hash, password, derivation.Salt, derivation.Iterations, size)
	if err != nil {
		return nil, fmt.Errorf("derive the key from its password: %w", err)
	}
	return decryptCBC(secret, iv, key.Encrypted)
}

// decryptCBC decrypts what is padded to whole blocks (RFC 8018, section
// 6.1.1), and checks that it is a key.
func decryptCBC(secret, iv, encrypted []byte) ([]byte, error) {
	if len(encrypted) == 0 || len(encrypted)%aes.BlockSize != 0 {
		return nil, errKey
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	plain := make([]byte, len(encrypted))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, encrypted)
	padding := int(plain[len(plain)-1])
	if padding == 0 || padding > aes.BlockSize ||
		slices.ContainsFunc(plain[len(plain)-padding:], func(b byte) bool { return int(b) != padding }) {
		return nil, errPassword
	}
	plain = plain[:len(plain)-padding]
	if _, err := x509.ParsePKCS8PrivateKey(plain); err != nil {
		return nil, errPassword // by chance the padding looked right
	}
	return plain, nil
}
