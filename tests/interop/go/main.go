// The Go client as a line-based program: one JSON request a line in, one JSON answer a line out.
// README.md, one folder up, has the requests.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

// With the default, 8 KB, the client does a thousand messages a second on loopback.
const socketBuffer = 1 << 20

// Less than the tests wait for an answer, so that this program says what is missing.
const patience = 20 * time.Second

type request struct {
	Do              string
	Stream          string
	Name            string
	Messages        []messageJSON
	Codec           string
	SubEntry        int `json:"sub_entry"`
	Filter          string
	By              string
	Keys            []string
	Offset          int64
	Last            string
	Filters         []string
	MatchUnfiltered bool `json:"match_unfiltered"`
}

type answer = map[string]any

type program struct {
	env    *stream.Environment
	member *stream.Consumer
	output sync.Mutex
}

func main() {
	log.SetOutput(os.Stderr)
	port, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	env, err := stream.NewEnvironment(stream.NewEnvironmentOptions().
		SetHost(os.Args[1]).
		SetPort(port).
		SetUser(os.Args[3]).
		SetPassword(os.Args[4]).
		SetVHost(os.Args[5]).
		SetReadBuffer(socketBuffer).
		SetWriteBuffer(socketBuffer))
	if err != nil {
		log.Fatal(err)
	}
	p := &program{env: env}
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		var asked request
		if err == nil {
			err = json.Unmarshal(line, &asked)
		}
		reply := answer{}
		if err == nil {
			reply, err = p.do(&asked)
		}
		if err != nil {
			reply = answer{"error": err.Error()}
		}
		p.say(reply)
	}
	if err := env.Close(); err != nil {
		log.Fatal(err)
	}
}

func (p *program) say(line answer) {
	p.output.Lock()
	defer p.output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}

func (p *program) do(asked *request) (answer, error) {
	switch asked.Do {
	case "publish":
		return p.publish(asked)
	case "route":
		return p.route(asked)
	case "read":
		return p.read(asked)
	case "sequence":
		sequence, err := p.env.QuerySequence(asked.Name, asked.Stream)
		return answer{"sequence": sequence}, err
	case "store":
		return answer{}, p.env.StoreOffset(asked.Name, asked.Stream, asked.Offset)
	case "stored":
		offset, err := p.env.QueryOffset(asked.Name, asked.Stream)
		if errors.Is(err, stream.OffsetNotFoundError) {
			return answer{"offset": nil}, nil
		}
		return answer{"offset": offset}, err
	case "join":
		return answer{}, p.join(asked)
	case "leave":
		return answer{}, p.member.Close()
	}
	return nil, fmt.Errorf("no such request: %q", asked.Do)
}

func (p *program) publish(asked *request) (answer, error) {
	options := stream.NewProducerOptions().SetProducerName(asked.Name)
	if asked.SubEntry > 0 {
		codec, err := compression(asked.Codec)
		if err != nil {
			return nil, err
		}
		options.SetSubEntrySize(asked.SubEntry).SetCompression(codec)
	}
	if asked.Filter != "" {
		options.SetFilter(stream.NewProducerFilter(func(message.StreamMessage) string { return asked.Filter }))
	}
	messages := make([]message.StreamMessage, len(asked.Messages))
	for at, given := range asked.Messages {
		built, err := given.build()
		if err != nil {
			return nil, err
		}
		messages[at] = built
	}
	producer, err := p.env.NewProducer(asked.Stream, options)
	if err != nil {
		return nil, err
	}
	confirms := producer.NotifyPublishConfirmation()
	err = confirmed(len(messages), confirms, func() error {
		for rest := messages; len(rest) > 0; { // a batch is one frame
			batch := rest[:min(1000, len(rest))]
			rest = rest[len(batch):]
			if err := producer.BatchSend(batch); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer{"confirmed": len(messages)}, producer.Close()
}

// confirmed sends, and waits until all that was sent is confirmed.
func confirmed(total int, confirms <-chan []*stream.ConfirmationStatus, send func() error) error {
	counted := make(chan error, 1)
	go func() {
		for count := 0; count < total; {
			for _, status := range <-confirms {
				if !status.IsConfirmed() {
					counted <- fmt.Errorf("not confirmed: code %d", status.GetErrorCode())
					return
				}
				count++
			}
		}
		counted <- nil
	}()
	if err := send(); err != nil {
		return err
	}
	select {
	case err := <-counted:
		return err
	case <-time.After(patience):
		return errors.New("not all is confirmed in time")
	}
}

func (p *program) route(asked *request) (answer, error) {
	key := func(m message.StreamMessage) string { return string(m.GetData()[0]) }
	var strategy stream.RoutingStrategy = stream.NewHashRoutingStrategy(key)
	if asked.By == "key" {
		strategy = stream.NewKeyRoutingStrategy(key)
	}
	producer, err := p.env.NewSuperStreamProducer(asked.Stream, stream.NewSuperStreamProducerOptions(strategy))
	if err != nil {
		return nil, err
	}
	confirms := make(chan []*stream.ConfirmationStatus)
	partitionConfirms := producer.NotifyPublishConfirmation(1)
	go func() {
		for confirm := range partitionConfirms {
			confirms <- confirm.ConfirmationStatus
		}
	}()
	err = confirmed(len(asked.Keys), confirms, func() error {
		for _, key := range asked.Keys {
			if err := producer.Send(amqp.NewMessage([]byte(key))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, producer.Close())
	}
	return answer{"confirmed": len(asked.Keys)}, producer.Close()
}

// read gives the messages from an offset on until one with the body "last", which it leaves out.
func (p *program) read(asked *request) (answer, error) {
	options := stream.NewConsumerOptions().SetOffset(stream.OffsetSpecification{}.Offset(asked.Offset))
	if len(asked.Filters) > 0 {
		all := func(*amqp.Message) bool { return true }
		options.SetFilter(stream.NewConsumerFilter(asked.Filters, asked.MatchUnfiltered, all))
	}
	type delivery struct {
		offset  int64
		message *amqp.Message
	}
	deliveries := make(chan delivery, 1000)
	consumer, err := p.env.NewConsumer(asked.Stream, func(context stream.ConsumerContext, m *amqp.Message) {
		deliveries <- delivery{context.Consumer.GetOffset(), m}
	}, options)
	if err != nil {
		return nil, err
	}
	timeout := time.After(patience)
	found := []answer{}
	for {
		select {
		case next := <-deliveries:
			if string(next.message.GetData()) == asked.Last {
				return answer{"messages": found}, consumer.Close()
			}
			read, err := readMessage(next.message)
			if err != nil {
				return nil, fmt.Errorf("offset %d: %w", next.offset, err)
			}
			read["offset"] = next.offset
			found = append(found, read)
		case <-timeout:
			return nil, fmt.Errorf("%d messages came, and not the last one", len(found))
		}
	}
}

// join makes the program a member of a group of single active consumers. It stores the offset of each message.
func (p *program) join(asked *request) error {
	onTurn := func(name string, isActive bool) stream.OffsetSpecification {
		p.say(answer{"event": "turn", "active": isActive})
		offset, err := p.env.QueryOffset(asked.Name, name)
		if err != nil {
			return stream.OffsetSpecification{}.First()
		}
		return stream.OffsetSpecification{}.Offset(offset + 1)
	}
	options := stream.NewConsumerOptions().
		SetConsumerName(asked.Name).
		SetOffset(stream.OffsetSpecification{}.First()).
		SetSingleActiveConsumer(stream.NewSingleActiveConsumer(onTurn))
	member, err := p.env.NewConsumer(asked.Stream, func(context stream.ConsumerContext, m *amqp.Message) {
		offset := context.Consumer.GetOffset()
		if err := context.Consumer.StoreCustomOffset(offset); err != nil {
			log.Fatal(err)
		}
		p.say(answer{"event": "message", "offset": offset, "body": hex.EncodeToString(m.GetData())})
	}, options)
	p.member = member
	return err
}

func compression(codec string) (stream.Compression, error) {
	switch codec {
	case "none":
		return stream.Compression{}.None(), nil
	case "gzip":
		return stream.Compression{}.Gzip(), nil
	case "snappy":
		return stream.Compression{}.Snappy(), nil
	case "lz4":
		return stream.Compression{}.Lz4(), nil
	case "zstd":
		return stream.Compression{}.Zstd(), nil
	}
	return stream.Compression{}, fmt.Errorf("no such codec: %q", codec)
}
