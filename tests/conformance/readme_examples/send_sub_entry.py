# "and eventually using sub_entry_batch". It has no import lines; they are added.
# Mended: amqp_message_list -> amqp_message, the name that exists.
# Kept: it creates 'mystream' and publishes to 'mixing', which the test creates first; the second close().
import asyncio
from rstream_core import Producer, AMQPMessage, CompressionType

async def publish():
    async with Producer('localhost', username='guest', password='guest') as producer:
        await producer.delete_stream('mystream', missing_ok=True)
        await producer.create_stream('mystream', exists_ok=True)

        messages = []
        for i in range(10):
            amqp_message = AMQPMessage(
                body='a:{}'.format(i),
            )
            messages.append(amqp_message)

       
        await producer.send_sub_entry('mixing', compression_type=CompressionType.Gzip,
                                      sub_entry_messages=messages)
        
        
        await producer.send_sub_entry('mixing', compression_type=CompressionType.No,
                                      sub_entry_messages=messages)

    await producer.close()
  
asyncio.run(publish())
