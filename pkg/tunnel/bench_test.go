package tunnel

import (
	"io"
	"net"
	"testing"
)

// ways are how the API server reaches a target of a benchmark: through a tunnel, and dialled from where it is.
func ways(b *testing.B, f func(*net.TCPConn), run func(b *testing.B, w *world, address string)) {
	w := newWorld(b)
	w.agent("a")
	w.route("here", Route{Direct: "127.0.0.1"})
	port := target(b, "127.0.0.1", f)
	for way, host := range map[string]string{"tunnel": "a:", "direct": "here:"} {
		b.Run(way, func(b *testing.B) { run(b, w, host+port) })
	}
}

func BenchmarkConnect(b *testing.B) {
	ways(b, echo, func(b *testing.B, w *world, address string) {
		for b.Loop() {
			c, err := w.egress(b.Context(), "tcp", address)
			if err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	ways(b, echo, func(b *testing.B, w *world, address string) {
		c, p := w.dial(address), make([]byte, 1)
		defer c.Close()
		for b.Loop() {
			_, _ = c.Write(p)
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDownload(b *testing.B) {
	flood := func(c *net.TCPConn) {
		knock(c)
		for p := make([]byte, 1<<20); ; {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	}
	ways(b, flood, func(b *testing.B, w *world, address string) {
		c, p := w.dial(address), make([]byte, 1<<20)
		defer c.Close()
		knock(c)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}
