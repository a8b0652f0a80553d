package conformance

import (
	"strings"
	"time"
)

// Connecting, heart-beats, and what a frame may look like.

func connecting(name, frame string) scenario {
	return scenario{name, func(s *stage) {
		a := s.raw("a")
		a.send(frame)
		a.expect(1)
	}}
}

// asking is a frame on a connection that is logged in, and its answer: that to
// the BEGIN behind it, where it has none.
func asking(name, version, frame string) scenario {
	return scenario{name, func(s *stage) {
		a := s.connectAs("a", version)
		if !strings.Contains(frame, "\n\n") {
			frame += "\n\n"
		}
		a.write(frame + "\x00BEGIN\ntransaction:none\nreceipt:no answer\n\n\x00")
		a.expect(1)
	}}
}

// wire is bytes on a connection that is logged in, and what comes of them.
func wire(name, version, bytes string, frames int) scenario {
	return scenario{name, func(s *stage) {
		a := s.connectAs("a", version)
		a.write(bytes)
		a.expect(frames)
	}}
}

var stompConnectScenarios = []scenario{
	connecting("connect_without_version_is_1_0", "CONNECT\nlogin:guest\npasscode:guest"),
	connecting("connect_1_0", "CONNECT\naccept-version:1.0\nhost:/\nlogin:guest\npasscode:guest"),
	connecting("connect_1_1", "CONNECT\naccept-version:1.1\nhost:/\nlogin:guest\npasscode:guest"),
	connecting("connect_1_2", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest"),
	connecting("connect_highest_version", "CONNECT\naccept-version:1.0,1.2,1.1\nhost:/\nlogin:guest\npasscode:guest"),
	connecting("connect_versions_some_unknown", "CONNECT\naccept-version:0.9,1.1,3.0\nhost:/\nlogin:guest\npasscode:guest"),
	connecting("connect_versions_none_known", "CONNECT\naccept-version:0.9,2.0\nhost:/\nlogin:guest\npasscode:guest"),
	connecting("connect_stomp_command", "STOMP\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest"),
	connecting("connect_without_host", "CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest"),
	connecting("connect_without_login", "CONNECT\naccept-version:1.2\nhost:/"),
	connecting("connect_passcode_wrong", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:wrong"),
	connecting("connect_user_unknown", "CONNECT\naccept-version:1.2\nhost:/\nlogin:nobody\npasscode:guest"),
	connecting("connect_host_unknown", "CONNECT\naccept-version:1.2\nhost:elsewhere\nlogin:guest\npasscode:guest"),
	connecting("connect_receipt_is_none", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nreceipt:c"),
	connecting("connect_heart_beat_whole_seconds", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:7000,30000"),
	connecting("connect_heart_beat_parts_of_seconds", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:2500,500"),
	connecting("connect_heart_beat_one_way", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,20000"),
	connecting("connect_heart_beat_not_a_number", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:often,never"),
	connecting("connect_heart_beat_one_number", "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:1000"),
	connecting("connect_lower_case", "connect\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest"),
	{"connect_after_empty_lines", func(s *stage) {
		a := s.raw("a")
		a.write("\n\r\n\nCONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\x00")
		a.expect(1)
	}},
	{"connect_with_carriage_returns", func(s *stage) {
		a := s.raw("a")
		a.write("CONNECT\r\naccept-version:1.2\r\nhost:/\r\nlogin:guest\r\npasscode:guest\r\n\r\n\x00\r\n")
		a.expect(1)
		a.write("BEGIN\r\ntransaction:t\r\nreceipt:r\r\n\r\n\x00")
		a.expect(1)
	}},
	{"connect_refused_ends_the_connection", func(s *stage) {
		a := s.raw("a")
		a.send("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:wrong")
		a.expect(1)
		a.take(1, 2*time.Second)
	}},
	{"connect_version_mismatch_ends_the_connection", func(s *stage) {
		a := s.raw("a")
		a.send("CONNECT\naccept-version:7.1\nhost:/\nlogin:guest\npasscode:guest")
		a.expect(1)
		a.take(1, 2*time.Second)
	}},
	{"connect_twice", func(s *stage) {
		a := s.connect("a")
		a.send("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest")
		a.expect(1)
		a.closed()
	}},
	{"connect_frame_byte_for_byte", func(s *stage) {
		a := s.raw("a")
		for _, b := range []byte("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\x00") {
			a.write(string(b))
		}
		a.expect(1)
	}},
	{"connect_and_more_in_one_packet", func(s *stage) {
		a := s.raw("a")
		a.write("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\x00" +
			"BEGIN\ntransaction:t\nreceipt:1\n\n\x00\n\nCOMMIT\ntransaction:t\nreceipt:2\n\n\x00\nDISCONNECT\nreceipt:3\n\n\x00")
		a.expect(4)
		a.closed()
	}},
	{"send_before_connect", func(s *stage) {
		a := s.raw("a")
		a.send("SEND\ndestination:/queue/$q\n\nhello")
		a.expect(1)
	}},

	// Heart-beats.

	{"heart_beat_of_the_server", func(s *stage) {
		a := s.connectAs("a", "1.2", "heart-beat:0,1000")
		for range 3 { // the first may be the end of the line behind CONNECTED
			_ = a.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			b, err := a.r.ReadByte()
			s.record(map[string]any{"beat": b == '\n', "came": err == nil})
		}
	}},
	{"heart_beat_of_the_client_missing", func(s *stage) {
		a := s.connectAs("a", "1.2", "heart-beat:1000,0")
		a.closed()
	}},
	{"heart_beat_of_the_client_as_promised", func(s *stage) {
		a := s.connectAs("a", "1.2", "heart-beat:1000,0")
		beat := time.NewTicker(500 * time.Millisecond)
		defer beat.Stop()
		for range 8 {
			<-beat.C
			a.write("\n")
		}
		a.alive()
	}},
	{"heart_beat_not_agreed_on", func(s *stage) {
		a := s.connectAs("a", "1.2", "heart-beat:0,0")
		_, err := a.read(3 * time.Second)
		s.record(map[string]any{"to": "a", "after": "3s", "end": err.Error()})
		a.alive()
	}},

	// Frames.

	asking("frame_command_unknown", "1.2", "SHOUT\ndestination:/queue/$q\n\nhello"),
	asking("frame_command_lower_case", "1.2", "send\ndestination:/queue/$q\n\nhello"),
	asking("frame_command_of_servers", "1.2", "MESSAGE\ndestination:/queue/$q\n\nhello"),
	wire("frame_escape_unknown", "1.2", "SEND\ndestination:/queue/$q\nname:a\\tb\nreceipt:r\n\nhello\x00", 1),
	wire("frame_escape_at_the_end_of_a_value", "1.2", "SEND\ndestination:/queue/$q\nname:a\\\nreceipt:r\n\nhello\x00", 1),
	wire("frame_header_without_colon", "1.2", "SEND\ndestination:/queue/$q\nname\nreceipt:r\n\nhello\x00", 1),
	wire("frame_carriage_return_in_a_header", "1.2", "SEND\ndestination:/queue/$q\nname:a\rb\nreceipt:r\n\nhello\x00", 1),
	wire("frame_header_name_empty", "1.2", "SEND\ndestination:/queue/$q\n:value\nreceipt:r\n\nhello\x00", 1),
	wire("frame_nul_between_frames", "1.2", "\x00\x00BEGIN\ntransaction:t\nreceipt:r\n\n\x00", 1),
	wire("frame_content_length_negative", "1.2", "SEND\ndestination:/queue/$q\ncontent-length:-1\nreceipt:r\n\nhello\x00", 1),
	wire("frame_content_length_signed", "1.2", "SEND\ndestination:/queue/$q\ncontent-length:+5\nreceipt:r\n\nhello\x00", 1),
	wire("frame_content_length_no_number", "1.2", "SEND\ndestination:/queue/$q\ncontent-length:five\nreceipt:r\n\nhello\x00", 1),
	wire("frame_content_length_in_spaces", "1.2", "SEND\ndestination:/queue/$q\ncontent-length: 5 \nreceipt:r\n\nhello\x00", 1),
	wire("frame_content_length_too_short", "1.2", "SEND\ndestination:/queue/$q\ncontent-length:3\nreceipt:r\n\nhello\x00", 1),
	wire("frame_content_length_repeated", "1.2", "SEND\ndestination:/queue/$q\ncontent-length:5\ncontent-length:3\nreceipt:r\n\nhello\x00", 1),
	wire("frame_content_length_on_others", "1.2", "BEGIN\ntransaction:t\nreceipt:r\ncontent-length:0\n\n\x00", 1),
	wire("frame_body_where_none_belongs", "1.2", "BEGIN\ntransaction:t\nreceipt:r\n\nbody\x00", 1),
	{"frame_content_length_with_nul_in_the_body", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\ncontent-length:7\n\na\x00b\x00\x00\nc\x00")
		a.expect(1)
	}},
	{"frame_body_to_the_nul", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\n\na\nb\r\n\n\x00")
		a.expect(1)
	}},
	{"frame_body_empty", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.send("SEND\ndestination:/queue/$q")
		a.send("SEND\ndestination:/queue/$q\ncontent-length:0")
		a.expect(2)
	}},
	{"frame_body_binary", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\ncontent-length:4\n\n\xff\x00\xfe\x80\x00")
		a.expect(1)
	}},
	{"frame_carriage_returns_in_the_body_stay", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\r\ndestination:/queue/$q\r\nname:value\r\n\r\na\r\n\x00\r\n")
		a.expect(1)
	}},
	{"frame_headers_repeated_the_first_counts", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\ndestination:/queue/$q.2\nname:first\nname:second\n\nhello\x00")
		a.expect(1)
	}},
	{"frame_escapes_1_2", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\nna\\cme\\n:a\\cb\\nc\\\\d\\re\n\nhello\x00")
		a.expect(1)
	}},
	{"frame_escapes_1_1", func(s *stage) {
		a := s.connectAs("a", "1.1")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\nname:a\\cb\\nc\\\\d\n\nhello\x00")
		a.expect(1)
	}},
	wire("frame_escape_of_1_2_in_1_1", "1.1", "SEND\ndestination:/queue/$q\nname:a\\rb\nreceipt:r\n\nhello\x00", 1),
	{"frame_escapes_1_0_are_none", func(s *stage) {
		a := s.connectAs("a", "1.0")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\nname:a\\cb\\\\c\n\nhello\x00")
		a.expect(1)
	}},
	{"frame_colons_in_a_value", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\nurl:http://host:80/\n\nhello\x00")
		a.expect(1)
	}},
	{"frame_spaces_around_values_1_0", func(s *stage) {
		a := s.connectAs("a", "1.0")
		a.do("SUBSCRIBE\nid: s\ndestination: /queue/$q")
		a.write("SEND\ndestination: /queue/$q\nname:  a b \nempty:\n\nhello\x00")
		a.expect(1)
	}},
	{"frame_spaces_around_values_1_2", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid: s\ndestination:/queue/$q")
		a.write("SEND\ndestination:/queue/$q\nname:  a b \n spaced :x\nempty:\n\nhello\x00")
		a.expect(1)
	}},
	{"frame_utf_8", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:é\ndestination:/queue/$q")
		a.send("SEND\ndestination:/queue/$q\nnäme:żółw\n\nπ")
		a.expect(1)
	}},
	{"frame_byte_for_byte", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:/queue/$q")
		for _, b := range []byte(s.expand("SEND\ndestination:/queue/$q\nname:a\\nb\ncontent-length:5\n\nh\x00llo\x00\n")) {
			a.write(string(b))
		}
		a.expect(1)
	}},
	{"frame_error_ends_the_connection", func(s *stage) {
		a := s.connect("a")
		a.send("SHOUT")
		a.expect(1)
		a.send("BEGIN\ntransaction:t\nreceipt:r")
		a.expect(1)
	}},
	{"frame_error_names_the_receipt", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\nreceipt:mine\n\nhello")
		a.expect(1)
	}},
}
