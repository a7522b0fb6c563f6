# "Connecting with SSL". It has no import line for Producer; it is added.
# Added at the end: some use of the producer, without which nothing connects.
import ssl
from rstream_core import Producer

ssl_context = ssl.SSLContext()
ssl_context.load_cert_chain('/path/to/certificate.pem', '/path/to/key.pem')

producer = Producer(
    host='localhost',
    port=5551,
    ssl_context=ssl_context,
    username='guest',
    password='guest',
)

# Added from here on.
import asyncio

async def use():
    async with producer:
        await producer.create_stream('mystream')
        await producer.send_wait('mystream', b'over TLS')

asyncio.run(use())
