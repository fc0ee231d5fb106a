// Command peer is both ends of the traffic in tests of the pod network.
//
//	peer serve PORT    answers over HTTP and UDP with its host name and the address it was asked from
//	peer ask URL...    asks all at once and prints one line for each, in order: the answer, or "error: " and why
//
// URLs are http://HOST:PORT/, http://HOST:PORT/bytes?n=N (the answer is the sum of N random bytes that are always the
// same), udp://HOST:PORT?size=N (N bytes each way), and dns:NAME (the answer is the addresses, sorted).
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: peer serve PORT | peer ask URL...")
	}
	switch os.Args[1] {
	case "serve":
		log.Fatal(serve(":" + os.Args[2]))
	case "ask":
		answers := make([]string, len(os.Args)-2)
		var wg sync.WaitGroup
		for i, u := range os.Args[2:] {
			wg.Go(func() {
				answer, err := ask(u)
				if err != nil {
					answer = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
				}
				answers[i] = answer
			})
		}
		wg.Wait()
		fmt.Println(strings.Join(answers, "\n"))
	default:
		log.Fatalf("%s is neither serve nor ask", os.Args[1])
	}
}

func serve(addr string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	answer := func(from string) []byte {
		host, _, _ := net.SplitHostPort(from)
		return []byte(name + " " + host)
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				log.Fatal(err)
			}
			reply := make([]byte, n)
			copy(reply, answer(from.String()))
			_, _ = udp.WriteTo(reply, from)
		}
	}()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(answer(r.RemoteAddr)) })
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = io.Copy(w, randomBytes(n))
	})
	s := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return s.ListenAndServe()
}

// randomBytes are n bytes that compress badly and are the same each time.
func randomBytes(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{}), n) }

func ask(target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	switch u.Scheme {
	case "dns":
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		addrs, err := net.DefaultResolver.LookupHost(ctx, u.Opaque)
		slices.Sort(addrs)
		return strings.Join(addrs, " "), err
	case "udp":
		return askUDP(u)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	n, err := strconv.ParseInt(u.Query().Get("n"), 10, 64)
	if err == nil {
		client.Timeout = time.Minute
	}
	resp, err := client.Get(target)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	if n == 0 {
		answer, err := io.ReadAll(resp.Body)
		return string(answer), err
	}
	want, got := sha256.New(), sha256.New()
	_, _ = io.Copy(want, randomBytes(n))
	if _, err := io.Copy(got, resp.Body); err != nil {
		return "", err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return "", errors.New("the bytes have been changed")
	}
	return fmt.Sprintf("%d bytes", n), nil
}

// askUDP tries again for a while: UDP may lose packets.
func askUDP(u *url.URL) (string, error) {
	conn, err := net.Dial("udp", u.Host)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	size, err := strconv.Atoi(u.Query().Get("size"))
	if err != nil {
		return "", err
	}
	reply := make([]byte, 64<<10)
	for range 5 {
		if _, err = conn.Write(make([]byte, size)); err != nil {
			continue
		}
		var n int
		_ = conn.SetReadDeadline(time.Now().Add(time.Second)) // never fails
		if n, err = conn.Read(reply); err == nil && n != size {
			return "", fmt.Errorf("%d bytes came back of %d", n, size)
		} else if err == nil {
			return string(bytes.TrimRight(reply[:n], "\x00")), nil
		}
	}
	return "", err
}
