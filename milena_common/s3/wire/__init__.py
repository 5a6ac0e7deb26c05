"""The forms of requests and replies of S3: paths and parameters, headers, XML documents, errors."""
