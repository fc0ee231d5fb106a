package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
	"sigs.k8s.io/apiserver-network-proxy/proto/agent"
)

// carry dials what the server asks for and passes bytes on until the server ends the stream.
func carry(stream agent.AgentService_ConnectClient, req *client.DialRequest) {
	answer := &client.DialResponse{Random: req.Random, ConnectID: connectID}
	d := net.Dialer{Timeout: agentDialTimeout}
	conn, err := d.DialContext(stream.Context(), "tcp", req.Address)
	if err != nil {
		answer.ConnectID, answer.Error = 0, err.Error()
	}
	// That the stream has ended is for Recv to tell, here and in all that follows.
	_ = stream.Send(&client.Packet{Type: client.PacketType_DIAL_RSP, Payload: &client.Packet_DialResponse{DialResponse: answer}})
	if err != nil {
		for err = nil; err == nil; _, err = stream.Recv() {
		}
		return
	}
	target := conn.(*net.TCPConn)
	defer context.AfterFunc(stream.Context(), func() { _ = target.SetDeadline(time.Unix(1, 0)) })() // a cut while it does not read
	received, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		send(stream, target, received)
	}()
	closed := receive(stream, target, received)
	if !closed {
		_ = target.SetLinger(0) // cut, so that what was received may be a part only
	}
	target.Close()
	<-sent
}

// send passes on what the target sends, and tells the server when both directions have ended, or the target broke off.
// It alone sends.
func send(stream agent.AgentService_ConnectClient, target *net.TCPConn, received <-chan struct{}) {
	data := &client.Data{ConnectID: connectID}
	packet := &client.Packet{Type: client.PacketType_DATA, Payload: &client.Packet_Data{Data: data}}
	buf := make([]byte, chunk)
	for {
		n, err := target.Read(buf)
		if n > 0 {
			data.Data = buf[:n]
			if stream.Send(packet) != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			data.Data = nil
			_ = stream.Send(packet)
			select {
			case <-received:
			case <-stream.Context().Done():
			}
		}
		if err != nil {
			_ = stream.Send(&client.Packet{Type: client.PacketType_CLOSE_RSP, Payload: &client.Packet_CloseResponse{
				CloseResponse: &client.CloseResponse{ConnectID: connectID}}})
			return
		}
	}
}

// receive passes on what the server sends until it ends the stream, and reports whether that was in order. It closes
// received when the server's direction has ended.
func receive(stream agent.AgentService_ConnectClient, target *net.TCPConn, received chan<- struct{}) (closed bool) {
	half := false
	for {
		p, err := stream.Recv()
		if err != nil {
			return closed || errors.Is(err, io.EOF)
		}
		switch p.Type {
		case client.PacketType_DATA:
			data := p.GetData().GetData()
			switch {
			case len(data) > 0:
				if _, err := target.Write(data); err != nil {
					target.Close() // which ends send, and with it the connection
				}
			case !half:
				half = true
				_ = target.CloseWrite()
				close(received)
			}
		case client.PacketType_CLOSE_REQ:
			closed = true
			target.Close()
		}
	}
}
