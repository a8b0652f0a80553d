// Package stompwire is the codec of STOMP 1.0, 1.1 and 1.2: bytes to frames and
// back, for both sides of a connection. Its functions are pure; limits are
// checked before anything is waited for or allocated.
//
// # Frame (STOMP 1.2, STOMP Frames)
//
//	command EOL             SEND
//	header EOL ...          destination:/queue/a
//	EOL
//	body
//	NUL
//
// An EOL is LF or CR LF. EOLs between frames are heart-beats. A header is a name,
// a colon and a value, nothing around them is trimmed, and of several headers of
// one name the first counts. The body has as many bytes as the header
// content-length says, or ends at the first NUL.
//
// # Escapes (Value Encoding)
//
//	        \n   \c   \\   \r
//	1.0     -    -    -    -
//	1.1     LF   :    \    -
//	1.2     LF   :    \    CR
//
// Any other escape is an error. CONNECT, STOMP and CONNECTED are not escaped in
// any version. What a version cannot express is an error when it is to be sent,
// and never cut or left out here.
package stompwire
