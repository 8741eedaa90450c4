FROM python:3.11-slim

RUN useradd --create-home recall
WORKDIR /app

# The dependencies change less often than the code: a layer of their own.
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY schemas ./schemas
COPY worker ./worker
RUN pip install --no-cache-dir --no-deps .

USER recall
EXPOSE 6066
ENTRYPOINT ["recall"]
CMD ["worker"]
