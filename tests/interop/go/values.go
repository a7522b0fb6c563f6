package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
)

// value is an AMQP value as ["type", "text"], ["list", [value, ...]] or ["map", [[value, value], ...]].
type value [2]any

// messageJSON is a message to publish. All its parts may be absent.
type messageJSON struct {
	Body        string
	ID          *int64
	Properties  map[string]json.RawMessage
	Application map[string]json.RawMessage
	Annotations map[string]json.RawMessage
}

func (m *messageJSON) build() (*amqp.AMQP10, error) {
	body, err := hex.DecodeString(m.Body)
	if err != nil {
		return nil, err
	}
	built := amqp.NewMessage(body)
	if m.ID != nil {
		built.SetPublishingId(*m.ID)
	}
	if m.Properties != nil {
		if built.Properties, err = properties(m.Properties); err != nil {
			return nil, err
		}
	}
	if m.Application != nil {
		built.ApplicationProperties = map[string]any{}
		for name, given := range m.Application {
			if built.ApplicationProperties[name], err = toGo(given); err != nil {
				return nil, err
			}
		}
	}
	if m.Annotations != nil {
		built.Annotations = amqp.Annotations{}
		for name, given := range m.Annotations {
			if built.Annotations[name], err = toGo(given); err != nil {
				return nil, err
			}
		}
	}
	return built, nil
}

// fields are the properties by their names, as pointers into a message's.
func fields(p *amqp.MessageProperties) map[string]any {
	return map[string]any{
		"message_id":           &p.MessageID,
		"user_id":              &p.UserID,
		"to":                   &p.To,
		"subject":              &p.Subject,
		"reply_to":             &p.ReplyTo,
		"correlation_id":       &p.CorrelationID,
		"content_type":         &p.ContentType,
		"content_encoding":     &p.ContentEncoding,
		"absolute_expiry_time": &p.AbsoluteExpiryTime,
		"creation_time":        &p.CreationTime,
		"group_id":             &p.GroupID,
		"group_sequence":       &p.GroupSequence,
		"reply_to_group_id":    &p.ReplyToGroupID,
	}
}

func properties(given map[string]json.RawMessage) (*amqp.MessageProperties, error) {
	built := &amqp.MessageProperties{}
	pointers := fields(built)
	for name, text := range given {
		converted, err := toGo(text)
		if err != nil {
			return nil, err
		}
		reflect.ValueOf(pointers[name]).Elem().Set(reflect.ValueOf(converted))
	}
	return built, nil
}

func readMessage(m *amqp.Message) (answer, error) {
	read := answer{}
	if len(m.Data) > 0 {
		read["body"] = hex.EncodeToString(m.GetData())
	}
	var err error
	if m.Value != nil {
		if read["value"], err = fromGo(m.Value); err != nil {
			return nil, err
		}
	}
	if m.Properties != nil {
		found := map[string]any{}
		for name, pointer := range fields(m.Properties) {
			field := reflect.ValueOf(pointer).Elem()
			if field.IsZero() { // the client does not tell absent from empty
				continue
			}
			if name == "content_type" || name == "content_encoding" {
				found[name] = value{"symbol", field.String()}
			} else if found[name], err = fromGo(field.Interface()); err != nil {
				return nil, err
			}
		}
		read["properties"] = found
	}
	if m.ApplicationProperties != nil {
		found := map[string]any{}
		for name, held := range m.ApplicationProperties {
			if found[name], err = fromGo(held); err != nil {
				return nil, err
			}
		}
		read["application"] = found
	}
	if m.Annotations != nil {
		found := map[string]any{}
		for name, held := range m.Annotations {
			if found[fmt.Sprint(name)], err = fromGo(held); err != nil {
				return nil, err
			}
		}
		read["annotations"] = found
	}
	return read, nil
}

// toGo reads a value. The client has no types for symbol, char and the decimals.
func toGo(given json.RawMessage) (any, error) {
	var typed [2]json.RawMessage
	var kind string
	if err := json.Unmarshal(given, &typed); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(typed[0], &kind); err != nil {
		return nil, err
	}
	switch kind {
	case "list":
		var items []json.RawMessage
		if err := json.Unmarshal(typed[1], &items); err != nil {
			return nil, err
		}
		list := []any{}
		for _, item := range items {
			converted, err := toGo(item)
			if err != nil {
				return nil, err
			}
			list = append(list, converted)
		}
		return list, nil
	case "map":
		var pairs [][2]json.RawMessage
		if err := json.Unmarshal(typed[1], &pairs); err != nil {
			return nil, err
		}
		built := map[any]any{}
		for _, pair := range pairs {
			key, err := toGo(pair[0])
			if err != nil {
				return nil, err
			}
			if built[key], err = toGo(pair[1]); err != nil {
				return nil, err
			}
		}
		return built, nil
	}
	var text string
	if err := json.Unmarshal(typed[1], &text); err != nil {
		return nil, err
	}
	return simpleToGo(kind, text)
}

func simpleToGo(kind, text string) (any, error) {
	switch kind {
	case "null":
		return nil, nil
	case "boolean":
		return text == "true", nil
	case "ubyte":
		number, err := strconv.ParseUint(text, 10, 8)
		return uint8(number), err
	case "ushort":
		number, err := strconv.ParseUint(text, 10, 16)
		return uint16(number), err
	case "uint":
		number, err := strconv.ParseUint(text, 10, 32)
		return uint32(number), err
	case "ulong":
		return strconv.ParseUint(text, 10, 64)
	case "byte":
		number, err := strconv.ParseInt(text, 10, 8)
		return int8(number), err
	case "short":
		number, err := strconv.ParseInt(text, 10, 16)
		return int16(number), err
	case "int":
		number, err := strconv.ParseInt(text, 10, 32)
		return int32(number), err
	case "long":
		return strconv.ParseInt(text, 10, 64)
	case "float":
		bits, err := strconv.ParseUint(text, 16, 32)
		return math.Float32frombits(uint32(bits)), err
	case "double":
		bits, err := strconv.ParseUint(text, 16, 64)
		return math.Float64frombits(bits), err
	case "timestamp":
		milliseconds, err := strconv.ParseInt(text, 10, 64)
		return time.UnixMilli(milliseconds), err
	case "uuid":
		parsed, err := uuid.Parse(text)
		return amqp.UUID(parsed), err
	case "binary":
		return hex.DecodeString(text)
	case "string", "symbol":
		return text, nil
	}
	return nil, fmt.Errorf("no such type here: %q", kind)
}

func fromGo(held any) (value, error) {
	switch held := held.(type) {
	case nil:
		return value{"null", ""}, nil
	case bool:
		return value{"boolean", strconv.FormatBool(held)}, nil
	case uint8:
		return value{"ubyte", fmt.Sprint(held)}, nil
	case uint16:
		return value{"ushort", fmt.Sprint(held)}, nil
	case uint32:
		return value{"uint", fmt.Sprint(held)}, nil
	case uint64:
		return value{"ulong", fmt.Sprint(held)}, nil
	case int8:
		return value{"byte", fmt.Sprint(held)}, nil
	case int16:
		return value{"short", fmt.Sprint(held)}, nil
	case int32:
		return value{"int", fmt.Sprint(held)}, nil
	case int64:
		return value{"long", fmt.Sprint(held)}, nil
	case float32:
		return value{"float", fmt.Sprintf("%08x", math.Float32bits(held))}, nil
	case float64:
		return value{"double", fmt.Sprintf("%016x", math.Float64bits(held))}, nil
	case time.Time:
		return value{"timestamp", fmt.Sprint(held.UnixMilli())}, nil
	case amqp.UUID:
		return value{"uuid", held.String()}, nil
	case []byte:
		return value{"binary", hex.EncodeToString(held)}, nil
	case string:
		return value{"string", held}, nil
	case []any:
		items := []value{}
		for _, item := range held {
			converted, err := fromGo(item)
			if err != nil {
				return value{}, err
			}
			items = append(items, converted)
		}
		return value{"list", items}, nil
	case map[string]any:
		general := map[any]any{}
		for key, item := range held {
			general[key] = item
		}
		return fromGo(general)
	case map[any]any:
		pairs := [][2]value{}
		for key, item := range held {
			convertedKey, err := fromGo(key)
			if err != nil {
				return value{}, err
			}
			converted, err := fromGo(item)
			if err != nil {
				return value{}, err
			}
			pairs = append(pairs, [2]value{convertedKey, converted})
		}
		return value{"map", pairs}, nil
	}
	return value{}, fmt.Errorf("no type for %T", held)
}
